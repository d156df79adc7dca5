/* Approval: a step asks for leave to make one call with its arguments; two people and the clock answer, the step is claimed
 * again, and two branches of the run, one of which has other arguments, try to use what was given.
 *
 * property  one_decision  I7  a wait has one answer
 * property  same          I7  what is called is what was approved, by its digest
 * property  used_once     I7  an approval is good for one call
 * property  in_time       I7  nobody approves what has expired
 * property  by_another    I7  who asked does not approve, where that is forbidden
 * property  told          I7  who comes second hears that somebody won
 * property  deadlock      P1  a decision frees the step
 * reach     can_call      an approved call may be made
 * reach     can_reject    a rejection may win
 * reach     can_expire    nobody may answer in time
 * reach     can_lose      an approval may be used up by an attempt that then dies
 *
 * witness   ANSWER_UNLOCKED  one_decision  a person's answer looks at the wait outside the run's lock and writes it by its id
 * witness   BY_NAME          same          the approval is matched by the tool's name
 * witness   NOT_CONSUMED     used_once     it is compared and not used up
 * witness   CONSUMED_LATER   used_once     it is used up in a transaction after that of the intent
 * witness   ANY_DECISION     same          an answered wait is taken for an approved one
 * witness   LATE_YES         in_time       an answer does not look at the time
 * witness   ANYBODY          by_another    an answer does not look at who gives it
 * witness   FALSE_OK         told          the second answer is told that it was taken
 * witness   WOKEN_LATER      deadlock      the step is woken in a transaction after that of the answer, and a crash lies between
 */
mtype = { open, approved, rejected }
mtype = { leased, waiting, ready }

mtype wait = open;
mtype status = waiting;
bool due;            /* by the database's clock (R5) */
byte bound = 1;      /* the digest of (tool, canonical arguments) that the wait carries */
bool consumed;

/* What the properties speak of. */
byte decisions, calls;
bool wrong, late_yes, own_yes, misled, called, lost, expired;

/* engine/waiting.py, end_wait: the answer and the waking are one transaction, under the run's lock. */
inline end_wait(what) {
  wait = what;
  decisions++;
#ifndef WOKEN_LATER
  status = ready
#endif
}

proctype Person(mtype says; bool asker) {
  bool taken;
#ifdef ANSWER_UNLOCKED
  if :: wait == open -> skip :: else -> goto beaten fi;
#endif
  atomic { /* R1: the run's lock, then the wait is looked at again */
    if
#ifdef ANSWER_UNLOCKED
    :: true ->
#else
    :: wait == open ->
#endif
      if
#ifndef LATE_YES
      :: due -> expired = true; end_wait(rejected) /* overdue: told so, and the wait is ended */
#endif
#ifndef ANYBODY
      :: asker && says == approved && !due -> skip /* Forbidden */
      :: !(asker && says == approved) && !due ->
#else
      :: !due ->
#endif
        own_yes = own_yes || (asker && says == approved);
        taken = true;
        end_wait(says)
#ifdef LATE_YES
      :: due ->
        late_yes = late_yes || says == approved;
        taken = true;
        end_wait(says)
#endif
      fi
    :: else ->
#ifdef FALSE_OK
      taken = true
#endif
    fi;
    misled = misled || (taken && wait != says)
  };
#ifdef ANSWER_UNLOCKED
beaten:
#endif
#ifdef WOKEN_LATER
  if :: true -> goto gone :: true fi;
  if :: taken -> status = ready :: else fi;
gone:
#endif
  skip
}

/* Any process sweeps: candidates without a lock, looked at again under it. */
proctype Sweeper() {
  if
  :: due ->
    atomic { if :: wait == open -> expired = true; end_wait(rejected) :: else fi };
#ifdef WOKEN_LATER
    if :: true -> goto gone :: true fi;
    atomic { if :: status == waiting && expired -> status = ready :: else fi };
gone:
#endif
    skip
  :: wait != open
  fi
}

proctype Time() { due = true }

#ifdef BY_NAME
#define ALLOWED(digest) (wait == approved && !consumed)
#else
#ifdef ANY_DECISION
#define ALLOWED(digest) (wait != open && bound == digest && !consumed)
#else
#define ALLOWED(digest) (wait == approved && bound == digest && !consumed)
#endif
#endif

/* A branch of the run that was handed the approval, with its arguments' digest; it may be killed and begin again, and then
 * the record says what it did: an intent of its own is not intended anew, and needs no approval (flow/effects.py). */
proctype Branch(byte digest) {
  bool intended, died;
  status != waiting;
again:
  atomic {
    if
    :: intended /* found in the record */
    :: !intended && ALLOWED(digest) ->
      intended = true; /* the intent, and in its transaction the using up */
      calls++;
      wrong = wrong || bound != digest || wait != approved;
#ifndef NOT_CONSUMED
#ifndef CONSUMED_LATER
      consumed = true
#endif
#endif
    :: else -> goto out /* Refused */
    fi
  };
  if
  :: !died -> died = true; lost = true; goto again /* kill -9 */
  :: true
  fi;
#ifdef CONSUMED_LATER
  consumed = true;
#endif
  called = true;
out:
  skip
}

init {
  atomic {
    run Person(approved, false);
    run Person(rejected, false);
    run Person(approved, true);
    run Sweeper();
    run Time();
    run Branch(1);
    run Branch(2);
    run Branch(1)
  }
}

ltl one_decision { [] (decisions <= 1) }
ltl same         { [] (!wrong) }
ltl used_once    { [] (calls <= 1) }
ltl in_time      { [] (!late_yes) }
ltl by_another   { [] (!own_yes) }
ltl told         { [] (!misled) }
ltl can_call     { [] (!called) }
ltl can_reject   { [] (wait != rejected || expired) }
ltl can_expire   { [] (!expired) }
ltl can_lose     { [] (!lost) }
