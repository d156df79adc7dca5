/* Locks: a parent run, its child and the budget of their tree; who takes the locks of rows, and in which order (R1): runs in id
 * order, then budgets. A batch that settles steps of both runs, a limit that is set while they run, a cancel, a reaper, and the
 * end of the child, of which the parent is told after the child's commit.
 *
 * property  deadlock   P4  nobody waits for a lock for ever
 * property  alone      R1  the rows of a run and of a budget are changed by one at a time
 * property  skipped    R2  a claim waits for nobody
 * liveness  told       P1  the parent hears of its child's end
 * reach     can_wait   two may want the same run
 * reach     can_skip   a claim may pass a locked run by
 *
 * witness   ANY_ORDER      deadlock  a batch takes its runs in the order of its outcomes
 * witness   ROOT_FIRST     deadlock  a limit is set with the root's lock first, where a clock behind gave a child the smaller id
 * witness   BUDGET_FIRST   deadlock  a limit is set with the budget's lock before the runs'
 * witness   PARENT_INSIDE  deadlock  the child's end tells the parent in its own transaction
 * witness   NO_LOCK        alone     the reaper changes a step without its run's lock
 * witness   CLAIM_WAITS    skipped   a claim takes the run's lock waiting
 * witness   NOBODY_SWEEPS  told      who ended the child dies before it told the parent, and nobody looks again
 */
#define PARENT 0
#define CHILD 1
#define BUDGET 2
#define FREE 0

byte lock[3];    /* 0 or the process that holds the row, until its transaction ends */

/* What the properties speak of. */
byte inside[3];
byte wanting[3];
bool shared, passed, ended, heard;
byte claim_waits;

inline take(row) {
  wanting[row]++;
  atomic { lock[row] == FREE -> lock[row] = _pid + 1; wanting[row]-- }
}

inline change(row) {
  atomic { inside[row]++; shared = shared || inside[row] > 1 };
  inside[row]--
}

inline end_transaction() {
  atomic {
    if :: lock[0] == _pid + 1 -> lock[0] = FREE :: else fi;
    if :: lock[1] == _pid + 1 -> lock[1] = FREE :: else fi;
    if :: lock[2] == _pid + 1 -> lock[2] = FREE :: else fi
  }
}

/* An exchange with outcomes of both runs, which spend. */
active proctype Batch() {
#ifdef ANY_ORDER
  take(CHILD); take(PARENT);
#else
  take(PARENT); take(CHILD);
#endif
  take(BUDGET);
  change(PARENT); change(CHILD); change(BUDGET);
  end_transaction()
}

/* engine/grant.py: the open runs of the tree, then the budget's row. */
active proctype Limit() {
#ifdef BUDGET_FIRST
  take(BUDGET); take(PARENT); take(CHILD);
#elif defined(ROOT_FIRST)
  take(CHILD); take(PARENT); take(BUDGET); /* the names tell which id is smaller: here the child is the root */
#else
  take(PARENT); take(CHILD); take(BUDGET);
#endif
  change(BUDGET);
  end_transaction()
}

active proctype Cancel() {
  take(PARENT);
  take(BUDGET);
  change(PARENT);
  end_transaction()
}

/* R7. */
active proctype Reaper() {
#ifndef NO_LOCK
  take(CHILD);
#endif
  change(CHILD);
  end_transaction()
}

/* The child's last step is settled; the parent's step is told in a transaction of its own, by this process or by any other. */
active proctype Ending() {
  take(CHILD);
  change(CHILD);
#ifdef PARENT_INSIDE
  take(PARENT); change(PARENT);
#endif
  ended = true;
  end_transaction();
  if
  :: true ->
    take(PARENT);
    change(PARENT);
    heard = true;
    end_transaction()
  :: true /* kill -9 */
  fi
}

active proctype Sweeper() {
#ifndef NOBODY_SWEEPS
  ended;
  take(PARENT);
  change(PARENT);
  heard = true;
  end_transaction()
#else
  do :: !heard od
#endif
}

/* R2: for no key update skip locked. */
active proctype Claim() {
#ifdef CLAIM_WAITS
  atomic { claim_waits = (lock[CHILD] != FREE -> 1 : 0) };
  take(CHILD);
#else
  if
  :: atomic { lock[CHILD] == FREE -> lock[CHILD] = _pid + 1 }
  :: atomic { lock[CHILD] != FREE -> passed = true; goto over }
  fi;
#endif
  change(CHILD);
  end_transaction();
#ifndef CLAIM_WAITS
over:
#endif
  skip
}

ltl alone    { [] (!shared) }
ltl skipped  { [] (claim_waits == 0) }
ltl told     { <> (heard) }
ltl can_wait { [] (wanting[0] <= 1) }
ltl can_skip { [] (!passed) }
