/* Failover: the log is shipped to a standby with a delay; the primary is lost once, and the standby goes on from what it has.
 * One step with one keyed effect; two workers, of which one lives through the failover with a lease that may be gone.
 * Synchronous: a commit is acknowledged when the standby has it; asynchronous: at once. Both are searched; what is promised of
 * the one alone is said of it alone.
 *
 * property  fenced        I2   no success with a lease that the history, as it now is, did not give
 * property  tokens        I3   tokens are distinct across the failover
 * property  durable       I1   what was acknowledged is not lost (synchronous)
 * property  once_keyed    I11  with a receiver that honours the key the effect takes place at most once, whatever is lost
 * property  once_plain    I11  an effect takes place at most once also if the receiver ignores the key (manual, synchronous)
 * property  deadlock      P1   after the failover the step ends
 * reach     can_fail_over   the failover may come with a lease out
 * reach     can_cut         the log may be cut
 * reach     can_unknown     a commit may be lost of which nobody was told
 *
 * witness   NUMBER_FENCE  fenced      completion asks for the claim number alone, which comes again after the cut
 * witness   COUNTED_TOKEN tokens      tokens come from a sequence of the database, which is cut, too
 * witness   ACK_FIRST     durable     a commit is acknowledged before the standby has it, though it is called synchronous
 * witness   KEY_OF_CLAIM  once_keyed  the effect's key is drawn at each intent and kept in the database only
 * witness   CALL_UNACKED  once_plain  the call is made before the intent's commit is acknowledged
 * witness   NO_REAPER     deadlock    nobody takes the leases over that the cut left without a holder
 * limit     ASYNC_DURABLE durable     asynchronous, too: what was acknowledged may be lost
 * limit     ASYNC_ONCE    once_plain  asynchronous, too: an intent may be lost, and a plain effect is made again
 */
#define CLAIMS 3
#ifdef ASYNC_DURABLE
#define DURABLE true
#else
#define DURABLE sync
#endif
#ifdef ASYNC_ONCE
#define ONCE true
#else
#define ONCE sync
#endif

mtype = { ready, leased, succeeded, unknown }

/* A database: what the primary has, and what of it the standby has. */
typedef Base {
  mtype status;
  byte claim_no;
  byte token;
  bool intent;
  byte by; /* the claim number that wrote the intent */
  byte key;
  byte sequence;
}
Base db, standby;

bool sync;            /* how the standby is fed */
bool plain;          /* the receiver ignores the key, and the effect is manual */
byte epoch;          /* 1 after the failover */
byte version, shipped; /* of the log; the standby is at `shipped` */

/* What the properties speak of. */
byte drawn;          /* claims ever made, in any history */
byte given[2];       /* the drawing that this history's lease came from, and the standby's */
byte last_token[4];  /* by drawing */
byte happened, keyed;
bool seen_key[5];
bool zombie, same, acked_success, cut, out_at, unknown_loss;

inline commit() { version++ }

#ifdef ACK_FIRST
#define ACKED(v, e) (epoch == e)
#else
#define ACKED(v, e) (epoch == e && (e == 1 || !sync || shipped >= v))
#endif

inline copy(to, from) {
  to.status = from.status; to.claim_no = from.claim_no; to.token = from.token; to.intent = from.intent; to.by = from.by;
  to.key = from.key; to.sequence = from.sequence
}

#ifdef NUMBER_FENCE
#define OWNS (db.status == leased && db.claim_no == no)
#else
#define OWNS (db.status == leased && db.claim_no == no && db.token == t)
#endif

active [2] proctype Worker() {
  byte no, t, at, mine, e, k; /* what a worker remembers, whatever becomes of the log */
idle:
  no = 0; t = 0; at = 0; mine = 0; e = 0; k = 0;
  if
  :: atomic {
      db.status == ready && drawn < CLAIMS ->
      drawn++;
      mine = drawn;
      db.claim_no++;
      db.sequence++;
#ifdef COUNTED_TOKEN
      t = db.sequence;
#else
      t = drawn; /* R4: random, and so never the same again, cut or not */
#endif
      same = same || (drawn > 1 && (last_token[1] == t || last_token[2] == t || last_token[3] == t));
      last_token[drawn] = t;
      no = db.claim_no;
      db.status = leased; db.token = t;
      given[0] = mine;
      commit(); at = version; e = epoch
    }
  :: epoch == 1 && (db.status == succeeded || db.status == unknown || drawn == CLAIMS) -> goto over
  fi;
  if :: ACKED(at, e) -> skip :: true -> goto idle fi; /* or kill -9 */
intend: /* fenced; one without a result of an earlier claim is unknown (manual), or sent again with the key it has */
  atomic {
    if
    :: OWNS && plain && db.intent && db.by != no -> db.status = unknown; db.token = 0; commit(); goto idle
    :: OWNS && db.intent && db.by == no -> at = version; e = epoch /* it is told before: already (R8) */
    :: OWNS && !(db.intent && (plain || db.by == no)) ->
      db.intent = true;
      db.by = no;
#ifdef KEY_OF_CLAIM
      if :: db.key == 0 -> db.key = mine :: else fi;
#else
      db.key = 4; /* made of run, step, number and request: it needs no memory */
#endif
      k = db.key;
      commit(); at = version; e = epoch
    :: else -> goto idle /* LeaseLost */
    fi
  };
#ifndef CALL_UNACKED
  if
  :: ACKED(at, e) -> skip
  :: epoch != e -> goto intend /* the connection broke: it asks again */
  :: true -> goto idle /* kill -9 */
  fi;
#endif
  atomic { /* R5: its lease is still good, then the call */
    if
    :: OWNS ->
      happened++;
      if :: seen_key[k] :: else -> seen_key[k] = true; keyed++ fi;
      k = 0
    :: else -> goto idle
    fi
  };
  if :: true -> goto idle :: true fi; /* kill -9 */
ask:
  atomic {
    if
    :: OWNS ->
      zombie = zombie || given[0] != mine;
      db.status = succeeded; db.token = 0;
      commit(); at = version; e = epoch
    :: db.status == succeeded && given[0] == mine -> at = version; e = epoch /* already */
    :: else -> goto idle
    fi
  };
  if
  :: atomic { epoch == e && ACKED(at, e) -> acked_success = true; goto idle }
  :: epoch != e -> goto ask /* the connection broke: it asks again (R8) */
  fi;
over:
  skip
}

#ifndef NO_REAPER
active proctype Reaper() {
  do
  :: atomic { db.status == leased && drawn < CLAIMS -> db.status = ready; db.token = 0; commit() }
  :: atomic { db.status == leased && drawn == CLAIMS -> db.status = unknown; db.token = 0; commit() } /* sealed */
  :: epoch == 1 && (db.status == succeeded || db.status == unknown || (db.status == ready && drawn == CLAIMS)) -> break
  od
}
#endif

/* Ships the log as a whole, and once loses the primary: what was not shipped is gone, and numbers go on from before it. */
active proctype Log() {
  do
  :: atomic { epoch == 0 && shipped < version -> copy(standby, db); given[1] = given[0]; shipped = version }
  :: atomic {
      epoch == 0 ->
      out_at = out_at || db.status == leased;
      cut = cut || shipped < version;
      unknown_loss = unknown_loss || (db.status == succeeded && standby.status != succeeded && !acked_success);
      copy(db, standby); given[0] = given[1]; version = shipped;
      epoch = 1
    }
  :: epoch == 1 -> break
  od
}

init { atomic { db.status = ready; standby.status = ready; if :: plain = true :: plain = false fi; if :: sync = true :: sync = false fi } }

ltl fenced        { [] (!zombie) }
ltl tokens        { [] (!same) }
ltl durable       { [] (!(DURABLE && acked_success && epoch == 1 && db.status != succeeded)) }
ltl once_keyed    { [] (!(!plain && keyed > 1)) }
ltl once_plain    { [] (!(ONCE && plain && happened > 1)) }
ltl can_fail_over { [] (!out_at) }
ltl can_cut       { [] (!cut) }
ltl can_unknown   { [] (!unknown_loss) }
