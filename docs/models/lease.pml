/* Lease and fence: three steps, the third joins the first two; two slots, a reaper, a controller that cancels or redrives.
 *
 * property  once      I1  a step succeeds at most once
 * property  fenced    I2  no success with a token that was given up before
 * property  numbers   I3  the claim numbers of a step are 1, 2, 3 ...
 * property  apart     I4  a step is claimed only when its last lease has ended
 * property  absorbed  I5  what has ended stays as it ended
 * property  ordered   I6  a step is claimed only after its parents
 * property  promoted  I6  a join is promoted once
 * property  stranded  I6  no join stays behind when its parents are done
 * property  spared    R7  the reaper takes no lease that is kept alive
 * property  told      R8  whose completion was committed is never told that its lease was lost
 * property  sealed    P2  a step that kills its workers is claimed max_crashes times and no more (again after a redrive)
 * liveness  ends      P1  with bounded faults the run ends, and stays ended
 * reach     can_complete  the run may succeed
 * reach     can_fail      the run may fail
 * reach     can_lose      a lease may be lost
 *
 * witness   NO_FENCE          fenced    completion asks for the step, not for the lease
 * witness   NAME_FENCE        fenced    the fence is the worker's name, and two of its slots have the same
 * witness   REAP_BY_ID        once      the reaper gives back what it saw, whatever the row is by then
 * witness   REAP_UNCHECKED    spared    the reaper does not ask again, under the lock, whether the lease is late
 * witness   CLAIM_UNLOCKED    apart     a ready step is looked up in one transaction and leased in another
 * witness   SNAPSHOT_JOIN     stranded  a parent reads its sibling from a snapshot older than the run's lock
 * witness   JOIN_AFTER_COMMIT promoted  parents are counted in a transaction after their own
 * witness   JOIN_ANY          ordered   the first parent promotes
 * witness   RESET_NUMBER      numbers   a redrive begins to count claims anew
 * witness   CANCEL_KEEPS      absorbed  cancel leaves the token, and completion looks at the token alone
 * witness   NO_ALREADY        told      the token of a completion is not kept
 * witness   UNCOUNTED         sealed    a lost lease is not counted
 * witness   NO_REAPER         ends      nobody gives a dead worker's lease back
 */
#define MAX_CRASHES 2
#define LIVES 2 /* the run, and the run redriven */

mtype = { pending, ready, leased, succeeded, dead, cancelled }
mtype = { running, completed, failed, stopped }

mtype state = running;
mtype status[3];
byte claim_no[3];   /* the fence's number, never reset */
byte token[3];      /* 0: no lease; distinct at every claim (R4) */
byte done_token[3]; /* of the completion that was accepted (R8) */
byte crashes[3];
bool late[3];       /* the session of the lease is past its time */
bool alive[3];      /* the holder of the lease still beats */
byte deps_left = 2; /* of step 2 */

/* What the properties speak of; no rule reads it. */
byte issued[3];     /* tokens drawn so far */
short given_up[3];  /* bits: tokens that were released, expired or cancelled */
byte wins[3];
byte winner[3];
byte promotions;
bool zombie, gap, overlap, overwritten, early, taken_alive, misled, lost;

#ifdef NAME_FENCE
byte holder[3];
#define OWNS(k, no, t) (status[k] == leased && holder[k] == 1)
#else
#ifdef NO_FENCE
#define OWNS(k, no, t) (status[k] != dead && status[k] != cancelled)
#else
#ifdef CANCEL_KEEPS
#define OWNS(k, no, t) (claim_no[k] == no && token[k] == t)
#else
#define OWNS(k, no, t) (status[k] == leased && claim_no[k] == no && token[k] == t)
#endif
#endif
#endif
#define ENDED(s) (s == succeeded || s == dead || s == cancelled)
#define OVER (state != running)

/* R2, R3, R4: the next number and a fresh token; the row and its run are locked from the look to the commit. */
inline lease(k, no, t) {
  overlap = overlap || status[k] == leased;
  early = early || (k == 2 && (status[0] != succeeded || status[1] != succeeded));
  issued[k]++;
  claim_no[k]++;
  gap = gap || claim_no[k] != issued[k];
  status[k] = leased;
  no = claim_no[k];
  t = issued[k];
  token[k] = t;
  late[k] = false;
  alive[k] = true;
#ifdef NAME_FENCE
  holder[k] = 1;
#endif
}

inline promote() {
  status[2] = ready;
  promotions++;
}

/* R1: under the run's lock a parent counts itself down at its child; who comes last promotes. */
inline resolve(k, sibling_done) {
  if
  :: k < 2 ->
#ifdef SNAPSHOT_JOIN
    if :: sibling_done && status[2] == pending -> promote() :: else fi
#else
#ifndef JOIN_AFTER_COMMIT
    deps_left--;
#ifdef JOIN_ANY
    if :: status[2] == pending -> promote() :: else fi
#else
    if :: deps_left == 0 && status[2] == pending -> promote() :: else fi
#endif
#endif
#endif
  :: else
  fi
}

inline end_lease(k) {
  given_up[k] = given_up[k] | (1 << token[k]);
  token[k] = 0;
  late[k] = false;
  alive[k] = false;
}

/* A run that fails or is cancelled takes its open steps with it, in the same transaction. */
inline close_open(i) {
  for (i : 0 .. 2) {
    if
    :: !ENDED(status[i]) ->
      if
      :: status[i] == leased ->
#ifdef CANCEL_KEEPS
        given_up[i] = given_up[i] | (1 << token[i])
#else
        end_lease(i)
#endif
      :: else
      fi;
      status[i] = cancelled
    :: else
    fi
  }
  i = 0
}

active [2] proctype Slot() {
  byte k, no, t;
  bool again, sibling_done;
idle:
  k = 0; no = 0; t = 0; again = false; sibling_done = false;
  if
  :: atomic {
      state == running && (status[0] == ready || status[1] == ready || status[2] == ready) ->
      if
      :: status[0] == ready -> k = 0
      :: status[1] == ready -> k = 1
      :: status[2] == ready -> k = 2
      fi;
#ifndef CLAIM_UNLOCKED
      lease(k, no, t)
#endif
    }
#ifdef CLAIM_UNLOCKED
    atomic { if :: state == running && !ENDED(status[k]) -> lease(k, no, t) :: else -> goto idle fi }
#endif
  :: OVER ->
    state == running; /* redriven */
    goto idle
  fi;
work:
  if
  :: atomic { if :: token[k] == t -> alive[k] = false; late[k] = true :: else fi; goto idle } /* kill -9 */
  :: true
  fi;
#ifdef SNAPSHOT_JOIN
  sibling_done = k < 2 && status[1 - (k & 1)] == succeeded;
#endif
ask: /* R3, R6, R8: accepted while the lease is this one, late or not */
  atomic {
    if
    :: OWNS(k, no, t) ->
      overwritten = overwritten || ENDED(status[k]);
      zombie = zombie || (given_up[k] & (1 << t));
      status[k] = succeeded;
      wins[k]++;
      winner[k] = t;
      token[k] = 0; late[k] = false; alive[k] = false;
#ifndef NO_ALREADY
      done_token[k] = t;
#endif
      resolve(k, sibling_done);
      if
      :: status[0] == succeeded && status[1] == succeeded && status[2] == succeeded && state == running -> state = completed
      :: else
      fi;
      if
      :: k < 2 && status[2] == ready && state == running -> k = 2; lease(k, no, t); goto work /* handed on in the same transaction */
      :: true
      fi
    :: else ->
      if
      :: done_token[k] == t
      :: else -> misled = misled || winner[k] == t
      fi
    fi
  };
  if
  :: !again -> again = true; goto ask /* the connection broke during COMMIT: it asks again */
  :: true
  fi;
#ifdef JOIN_AFTER_COMMIT
  if
  :: atomic { k < 2 && status[0] == succeeded && status[1] == succeeded && state == running -> promote() }
  :: else
  fi;
#endif
  goto idle
}

/* Time, as far as anybody can tell: a session is late at any moment, and a beat heals it (R9). */
active proctype Clock() {
  do
  :: atomic { status[0] == leased && alive[0] -> late[0] = !late[0] }
  :: atomic { status[1] == leased && alive[1] -> late[1] = !late[1] }
  :: atomic { status[2] == leased && alive[2] -> late[2] = !late[2] }
  :: state == running /* time goes on */
  od
}

#ifndef NO_REAPER
/* R7: candidates are found without a lock and looked at again under it, by their token. */
active proctype Reaper() {
  byte k, t, i;
  do
  :: atomic {
      late[0] || late[1] || late[2] ->
      if
      :: late[0] -> k = 0
      :: late[1] -> k = 1
      :: late[2] -> k = 2
      fi;
      t = token[k]
    }
    atomic {
      if
#ifdef REAP_BY_ID
      :: status[k] != cancelled && status[k] != dead && state == running ->
#else
#ifdef REAP_UNCHECKED
      :: status[k] == leased && token[k] == t ->
#else
      :: status[k] == leased && token[k] == t && late[k] ->
#endif
#endif
        taken_alive = taken_alive || !late[k];
        lost = true;
        end_lease(k);
#ifndef UNCOUNTED
        crashes[k]++;
#endif
        if
        :: crashes[k] == MAX_CRASHES -> status[k] = dead; state = failed; close_open(i)
        :: else -> status[k] = ready
        fi
      :: else
      fi;
      k = 0; t = 0
    }
  od
}
#endif

#ifndef LIVENESS /* its few words end sooner or later; that everything ends is searched without them */
/* A person: cancels at any moment, or gives a failed run another life (the only way out of an end, I5). */
active proctype Controller() {
  byte i;
  if
  :: atomic { state == running -> state = stopped; close_open(i) }
  :: atomic {
      state == failed ->
      for (i : 0 .. 2) {
        if
        :: status[i] == dead || status[i] == cancelled ->
          crashes[i] = 0;
#ifdef RESET_NUMBER
          claim_no[i] = 0;
#endif
          if :: i == 2 && deps_left > 0 -> status[i] = pending :: else -> status[i] = ready fi
        :: else
        fi
      }
      i = 0;
      state = running
    }
  :: true
  fi
}
#endif

init { atomic { status[0] = ready; status[1] = ready; status[2] = pending } }

ltl once         { [] (wins[0] <= 1 && wins[1] <= 1 && wins[2] <= 1) }
ltl fenced       { [] (!zombie) }
ltl numbers      { [] (!gap) }
ltl apart        { [] (!overlap) }
ltl absorbed     { [] (!overwritten) }
ltl ordered      { [] (!early) }
ltl promoted     { [] (promotions <= 1) }
ltl stranded     { [] (!(status[0] == succeeded && status[1] == succeeded && status[2] == pending)) }
ltl spared       { [] (!taken_alive) }
ltl told         { [] (!misled) }
ltl sealed       { [] (issued[0] <= LIVES * MAX_CRASHES && issued[1] <= LIVES * MAX_CRASHES && issued[2] <= LIVES * MAX_CRASHES) }
ltl ends         { <> [] (state != running) }
ltl can_complete { [] (state != completed) }
ltl can_fail     { [] (state != failed) }
ltl can_lose     { [] (!lost) }
