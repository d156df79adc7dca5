/* Effects: one call of the outside world, its intent before and its result after it, each under the live lease; two workers,
 * a reaper, a person, and a receiver that honours the key (class idempotent), one that does not but can be asked (verify),
 * and one that does neither (manual).
 *
 * property  intended       I11  no call without a committed intent of the same key
 * property  once_keyed     I11  with a receiver that honours the key the effect takes place at most once
 * property  once_manual    I11  a manual effect takes place at most once (a person says `send again` of callers known dead)
 * property  once_verified  I11  a verified effect takes place at most once, while no caller is frozen between look and call
 * property  one_result     I1   a committed result is never replaced
 * property  truthful       I11  `done` was done, and what nobody knows is not called failed
 * property  deadlock       P1   the step ends
 * reach     can_finish     the effect may be done
 * reach     can_doubt      a person may be asked
 * reach     can_replay     a second attempt may find the result
 *
 * witness   CALL_FIRST        intended       the call is made before its intent is committed
 * witness   NEW_KEY           once_keyed     the key is of the attempt, not of the step
 * witness   INTENT_UNFENCED   once_manual    a worker without a lease may write an intent, and so call
 * witness   RESULT_UNFENCED   one_result     a worker without a lease may write a result
 * witness   MANUAL_SENDS      once_manual    an intent without a result is sent again whatever its class
 * witness   FORGETS           once_manual    a resumed attempt does not look at the record
 * witness   TIMEOUT_IS_NO     truthful       an answer that did not come counts as `it did not happen`
 * witness   NO_LOOK           once_verified  what is to be looked up is sent instead
 * witness   NOBODY_ASKS       deadlock       the step waits, and the person is not told
 * limit     LATE_CALLER       once_verified  a caller frozen between its look and its call makes the call late
 * limit     RESEND_UNSEEN     once_manual    a person says `send again` while the first caller is frozen and not dead
 */
#define MAX_LOSSES 2

mtype = { idempotent, verify, manual }                                     /* classes */
mtype = { none, intent, done, failed, unknown, resend, refused }           /* effects */
mtype = { ready, leased, waiting, succeeded, dead }                        /* steps */

mtype class;
mtype status = ready;
byte token;      /* of the live lease; drawn by counting, for a model needs no chance */
byte losses;
mtype effect = none;
byte key;        /* of the intent that is on record */
bool asked;      /* an open wait of the kind unknown_effect */

/* The receiver. */
byte happened;   /* how often the effect took place */
bool knows[3];   /* the keys it has seen, if it is one that keeps them */

/* What the properties speak of. */
byte issued, results;
byte frozen;     /* callers between their look and their call, or with a call on its way */
bool unintended, untrue, replayed, doubted, had_intent[3];

#define LIVE(t) (status == leased && token == t)

#ifdef NEW_KEY
#define KEY(t) ((t - 1) % 3)
#else
#define KEY(t) 0 /* HMAC over run, step, number and request: no attempt in it */
#endif

inline give_up() { token = 0 }

/* What arrives at the receiver. */
inline take_place(k) {
  unintended = unintended || !had_intent[k];
  if
  :: class == idempotent && knows[k]
  :: else -> happened++; knows[k] = true
  fi
}

/* Fenced: the result, or that nobody knows (R3). */
inline record(t, what) {
  if
#ifdef RESULT_UNFENCED
  :: true ->
#else
  :: LIVE(t) ->
#endif
    results = results + (what == done);
    untrue = untrue || (what == done && happened == 0) || (what == failed && happened > 0);
    effect = what;
    if
    :: what == done && LIVE(t) -> status = succeeded; give_up()
    :: what == done && !LIVE(t)
    :: what == unknown && class == manual -> status = waiting; asked = true; doubted = true; give_up() /* InDoubt */
    :: what == failed || (what == unknown && class != manual) -> /* a retry, which a policy bounds */
      losses++;
      give_up();
      if :: losses >= MAX_LOSSES -> status = dead :: else -> status = ready fi
    fi
  :: else
  fi
}

active [2] proctype Worker() {
  byte t;
  bool send;
idle:
  t = 0; send = false;
  if
  :: atomic { status == ready -> status = leased; issued++; token = issued; t = issued }
  :: status == succeeded || status == dead -> goto over
  fi;
  /* With the claim comes the record: what it allows (core/effects.py, `recovery`). */
#ifndef FORGETS
  atomic {
    if
    :: !LIVE(t) -> goto idle
    :: LIVE(t) && effect == done -> replayed = true; status = succeeded; give_up(); goto idle
    :: LIVE(t) && effect == refused -> status = dead; give_up(); goto idle
#ifndef MANUAL_SENDS
    :: LIVE(t) && class == manual && (effect == intent || effect == unknown) -> record(t, unknown); goto idle
#endif
#ifndef NO_LOOK
    :: LIVE(t) && class == verify && (effect == intent || effect == unknown) && happened > 0 -> record(t, done); goto idle
    :: LIVE(t) && class == verify && (effect == intent || effect == unknown) && happened == 0 -> skip
    :: LIVE(t) && class == verify && !(effect == intent || effect == unknown || effect == done || effect == refused) -> skip
#else
    :: LIVE(t) && class == verify && effect != done && effect != refused -> skip
#endif
#ifndef MANUAL_SENDS
    :: LIVE(t) && class == manual && (effect == none || effect == failed || effect == resend) -> skip
#else
    :: LIVE(t) && class == manual && effect != done && effect != refused -> skip
#endif
    :: LIVE(t) && class == idempotent && effect != done && effect != refused -> skip
    fi
  }
#endif
  if :: true -> goto idle :: true fi; /* kill -9; the reaper needs no telling */
#ifdef CALL_FIRST
  atomic { take_place(KEY(t)) };
#endif
  /* The intent, fenced and committed; asked again after an unknown commit it is known already (R8), so it is one here. */
  atomic {
    if
#ifdef INTENT_UNFENCED
    :: effect != done && status != succeeded && status != dead ->
#else
    :: LIVE(t) ->
#endif
      effect = intent; key = KEY(t); had_intent[KEY(t)] = true; frozen++
    :: else -> goto idle
    fi
  };
  if :: true -> frozen--; goto idle :: true fi; /* kill -9 */
  /* R5: after the commit the worker asks whether its lease is still good, and makes the call at once or not at all. */
  if
#ifndef INTENT_UNFENCED
  :: atomic { !LIVE(t) -> frozen--; goto idle }
#endif
  :: atomic {
#ifndef INTENT_UNFENCED
      LIVE(t) ->
#endif
      if
#ifndef LATE_CALLER
      :: class == verify -> /* no frozen caller of a tool that is looked up: docs/guarantees.md, what is not promised */
        if :: true -> take_place(KEY(t)); send = true :: true fi
#endif
      :: else -> skip
      fi
    }
  fi;
  /* Here it may be frozen for as long as it likes, or its request be on its way. */
#ifndef CALL_FIRST
  if
  :: atomic {
#ifndef LATE_CALLER
      class != verify ->
#else
      true ->
#endif
      take_place(KEY(t)); send = true }
  :: true
  fi;
#endif
  frozen--;
  if :: true -> goto idle :: true fi; /* kill -9 */
  atomic {
    if
    :: send -> record(t, done)
#ifdef TIMEOUT_IS_NO
    :: true -> record(t, failed)
#else
    :: true -> record(t, unknown) /* no answer came */
    :: !send && happened == 0 && frozen == 0 -> record(t, failed) /* the tool's own word */
#endif
    fi
  };
  goto idle;
over:
  skip
}

/* R7: any lease may be lost at any time; only so often, or the step is sealed. */
active proctype Reaper() {
  do
  :: atomic {
      status == leased ->
      losses++;
      give_up();
      if
      :: losses >= MAX_LOSSES ->
        status = dead;
        if :: effect == intent -> effect = unknown :: else fi /* shown, as the run ends */
      :: else -> status = ready
      fi
    }
  :: status == succeeded || status == dead -> break
  od
}

#ifndef NOBODY_ASKS
active proctype Person() {
  do
  :: atomic {
      asked ->
      asked = false;
      status = ready;
      if
      :: happened > 0 -> effect = done; results++ /* looked into it: it happened, the result is ... */
      :: true -> effect = refused
#ifdef RESEND_UNSEEN
      :: happened == 0 && issued < 4 -> effect = resend
#else
      :: happened == 0 && frozen == 0 && issued < 4 -> effect = resend
#endif
      fi
    }
  :: status == succeeded || status == dead -> break
  od
}
#endif

init { atomic { if :: class = idempotent :: class = verify :: class = manual fi } }

ltl intended      { [] (!unintended) }
ltl once_keyed    { [] (!(class == idempotent && happened > 1)) }
ltl once_manual   { [] (!(class == manual && happened > 1)) }
ltl once_verified { [] (!(class == verify && happened > 1)) }
ltl one_result    { [] (results <= 1) }
ltl truthful      { [] (!untrue) }
ltl can_finish    { [] (!(status == succeeded && results == 1)) }
ltl can_doubt     { [] (!doubted) }
ltl can_replay    { [] (!replayed) }
