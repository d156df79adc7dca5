/* Schedules: instants 1..3 of one schedule; two processes look what is due and start its runs, no leader. The engine has no
 * schedules yet: this is the rule of I8 as it will be, one run for each (schedule, instant) by a unique key, and the next
 * instant advanced in the transaction that starts the run.
 *
 * property  once        I8  an instant starts at most one run
 * property  not_early   I8  no instant starts a run before its time
 * property  in_order    I8  the next instant only goes forward
 * property  none_lost   I8  policy `all`: in the end every instant has started its run
 * property  latest      I8  policy `one`: after a time without schedulers the latest instant missed starts one run, those before it none
 * reach     can_miss    an instant may go by while nobody looks
 * reach     can_catch   what was missed may be made up for
 * reach     can_race    two processes may see the same instant due
 *
 * witness   NO_UNIQUE      once       what is due is looked up without a lock and started without a key
 * witness   ADVANCE_FIRST  none_lost  the next instant is committed before its run
 * witness   ADVANCE_LATER  once       the run is committed before the next instant, and no key tells that it was
 * witness   OWN_CLOCK      not_early  a process goes by its own clock, which runs ahead
 * witness   FROM_SEEN      in_order   the next instant is written from what was seen before the lock
 * witness   SKIPS          latest     what was missed is stepped over to the next that is to come
 * witness   ONE_SCHEDULER  none_lost  only one process looks, and it dies
 */
#define INSTANTS 3
#ifdef ONE_SCHEDULER
#define START_OTHER idle = 1
#else
#define START_OTHER run Scheduler(0)
#endif

mtype = { all, one }

mtype policy;
byte now;
byte next = 1;       /* of the schedule's row */
byte runs[4];        /* how many runs an instant started */
byte idle;           /* processes that will not look any more */

/* What the properties speak of. */
bool early, back, missed, caught, raced;
byte looked[4];

#ifdef OWN_CLOCK
#define DUE(at) (at <= INSTANTS && now + 1 >= at)
#else
#define DUE(at) (at <= INSTANTS && now >= at) /* R5: the database's clock */
#endif

inline fire(at) {
  early = early || now < at;
  caught = caught || now > at;
#ifdef NO_UNIQUE
  runs[at]++
#else
#ifdef ADVANCE_LATER
  runs[at]++
#else
  if :: runs[at] == 0 -> runs[at]++ :: else fi /* on conflict do nothing */
#endif
#endif
}

inline advance(to) {
  back = back || to < next;
  next = to
}

/* Which instant is to fire: of those missed all in turn, or the latest. */
inline choose(at) {
  at = next;
#ifdef SKIPS
  if :: policy == one && now > at -> at = now + 1 :: else fi
#else
  if :: policy == one && now > at -> at = (now < INSTANTS -> now : INSTANTS) :: else fi
#endif
}

proctype Scheduler(byte me) {
  byte at, seen;
  bool mortal;
  mortal = me == 1;
  do
  :: atomic {
      DUE(next) ->
      seen = next;
      looked[seen]++;
      raced = raced || looked[seen] > 1
    }
    if
    :: atomic { mortal -> goto out } /* kill -9; the other lives */
    :: true
    fi;
#ifdef NO_UNIQUE
    at = seen;
    atomic { fire(at) };
    atomic { if :: next == at -> advance(at + 1) :: else fi }
#else
#ifdef ADVANCE_FIRST
    atomic { if :: DUE(next) -> choose(at); advance(at + 1) :: else -> at = 0 fi };
    if :: atomic { mortal -> goto out } :: true fi;
    atomic { if :: at > 0 && at <= INSTANTS -> fire(at) :: else fi }
#else
#ifdef ADVANCE_LATER
    atomic { if :: DUE(next) -> choose(at); fire(at) :: else -> at = 0 fi };
    if :: atomic { mortal -> goto out } :: true fi;
    atomic { if :: at > 0 && next <= at -> advance(at + 1) :: else fi }
#else
    atomic { /* the schedule's row is locked and looked at again; the run and the next instant are one transaction */
#ifdef FROM_SEEN
      if
      :: DUE(seen) -> at = seen; fire(at); advance(at + 1)
#else
      if
      :: DUE(next) ->
        choose(at);
        if :: at <= INSTANTS && now >= at -> fire(at); advance(at + 1) :: else -> advance(at) fi
#ifdef OWN_CLOCK
      :: DUE(next) -> at = next; fire(at); advance(at + 1)
#endif
#endif
      :: else
      fi
    }
#endif
#endif
#endif
    at = 0; seen = 0
  :: next > INSTANTS -> break
  od;
out:
  atomic { idle++; at = 0; seen = 0; mortal = false }
}

proctype Clock() { do :: now < INSTANTS + 1 -> atomic { now++; missed = missed || (next < now && next <= INSTANTS) } :: now > INSTANTS -> break od }

init { atomic { if :: policy = all :: policy = one fi; run Scheduler(1); run Clock(); START_OTHER } }

#define REST (idle == 2 && now > INSTANTS)

ltl once      { [] (runs[1] <= 1 && runs[2] <= 1 && runs[3] <= 1) }
ltl not_early { [] (!early) }
ltl in_order  { [] (!back) }
ltl none_lost { [] (!REST || policy == one || runs[1] + runs[2] + runs[3] == INSTANTS) }
ltl latest    { [] (!REST || policy == all || runs[3] == 1) }
ltl can_miss  { [] (!missed) }
ltl can_catch { [] (!caught) }
ltl can_race  { [] (!raced) }
