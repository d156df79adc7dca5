/* Budgets: three calls of one tree at once, each may cost 2 at most and costs 1 or 2, under a limit of 4. What a call holds is
 * reserved in the transaction of its intent, what it did cost is charged in that of its result.
 *
 * property  within    I12  spent + reserved never exceeds the limit
 * property  covered   I12  the books hold at least what the provider will ask for, so the bill stays within the limit
 * property  at_rest   I12  nothing is reserved when nothing is under way
 * property  exact     I12  what was known in the end is what was charged: every bill heard, nothing of it twice
 * property  deadlock  P1   every call ends
 * reach     can_refuse     a call may be refused
 * reach     can_correct    a charge may be corrected
 * reach     can_all        all three may be made
 *
 * witness   CHECK_THEN_SPEND  within   the limit is read in one transaction and the reservation made in another
 * witness   SPEND_AFTER       covered  nothing is reserved: the intent looks at what is spent
 * witness   LOST_IS_FREE      covered  a lost lease gives its reservation back
 * witness   LOST_STAYS        at_rest  a lost lease leaves its reservation where it is
 * witness   UNFENCED          covered  a late result is settled although the lease was charged already
 * witness   BOOKED_TWICE      covered  a correction does not look whether the charge still stands
 * witness   NO_CORRECTION     exact    what a call that was cut off had used is not booked
 * witness   WAITS_FOR_ROOM    deadlock a call that does not fit waits for room that nobody makes
 * witness   LOWERED           within   a limit may be lowered to what is spent, while calls under way hold more
 */
#define BOUND 2
#define ROOM (spent + reserved + BOUND <= cap)

byte cap = 4;
short spent, reserved;
short held[3];    /* of the effect's row: what it reserved */
short charged[3]; /* of the effect's row: its bound, since its lease was lost */
bool leased[3];

/* What the properties speak of. */
byte bill;        /* what the provider has done and will ask for */
byte known;       /* of it, what the engine heard of by a result or a booking */
byte made, over;
bool refused, corrected;
bool unbooked;    /* a worker lived to tell what its call did cost, and the books have the bound */

inline settle(no, cost) { /* fenced (R3): ends the reservation, charges the truth */
  if
#ifdef UNFENCED
  :: true ->
#else
  :: leased[no] ->
#endif
    leased[no] = false;
    known = known + cost;
#ifdef SPEND_AFTER
    spent = spent + cost
#else
    reserved = (reserved > BOUND -> reserved - BOUND : 0); /* what the result says that it held */
    held[no] = 0;
    spent = spent + cost;
#endif
#ifdef UNFENCED
    spent = spent - charged[no]; charged[no] = 0
#endif
  :: else -> book(no, cost) /* its lease is gone: the charge is corrected, which needs no lease but the effect's own key */
  fi
}

inline book(no, cost) {
#ifndef NO_CORRECTION
  if
#ifdef BOOKED_TWICE
  :: true ->
    spent = (spent > BOUND - cost -> spent - (BOUND - cost) : 0); known = known + cost; corrected = true
#else
  :: charged[no] > 0 ->
    spent = spent + cost - charged[no]; charged[no] = 0; known = known + cost; corrected = true
  :: else
#endif
  fi
#else
  skip
#endif
}

proctype Call(byte no) {
  byte cost;
  bool called;
#ifdef CHECK_THEN_SPEND
  if
  :: atomic { ROOM -> skip }
  :: atomic { !ROOM -> refused = true; goto finish }
  fi;
  atomic { held[no] = BOUND; reserved = reserved + BOUND; leased[no] = true };
#else
#ifdef SPEND_AFTER
  if
  :: atomic { spent + BOUND <= cap -> leased[no] = true }
  :: atomic { spent + BOUND > cap -> refused = true; goto finish }
  fi;
#else
  /* R1: the run's lock, then the budget's row; the intent is in the same transaction. */
  if
  :: atomic { ROOM -> held[no] = BOUND; reserved = reserved + BOUND; leased[no] = true }
#ifndef WAITS_FOR_ROOM
  :: atomic { !ROOM -> refused = true; goto finish } /* fail, or pause: no call is made */
#endif
  fi;
#endif
#endif
  if :: true -> goto finish :: true fi; /* kill -9 before the call */
  atomic { if :: cost = 1 :: cost = 2 fi; bill = bill + cost; made++ };
  if :: true -> goto finish :: true fi; /* kill -9 before the result: nobody hears of the bill */
  atomic { settle(no, cost); called = true };
  if :: atomic { called -> settle(no, cost) } :: true fi; /* the answer was lost: told again (R8) */
finish:
  atomic { unbooked = unbooked || (called && charged[no] > 0); over++; cost = 0; called = false }
}

/* R7: a lease that is lost is charged what it held, for nobody knows what became of the call. */
active proctype Reaper() {
  byte k;
  do
  :: atomic {
      leased[0] || leased[1] || leased[2] ->
      if :: leased[0] -> k = 0 :: leased[1] -> k = 1 :: leased[2] -> k = 2 fi;
      leased[k] = false;
#ifdef LOST_IS_FREE
      reserved = reserved - held[k]; held[k] = 0
#else
#ifndef LOST_STAYS
      reserved = reserved - held[k]; spent = spent + held[k]; charged[k] = held[k]; held[k] = 0
#endif
#endif
    }
  :: over == 3 && !leased[0] && !leased[1] && !leased[2] -> break
  od
}

active proctype Operator() { /* sets a lower limit at any moment, or never */
end:
  atomic {
#ifdef LOWERED
    spent <= 2 -> cap = 2
#else
    spent + reserved <= 2 -> cap = 2 /* anything less is refused (engine/grant.py), under the lock of the budget */
#endif
  }
}

init { atomic { run Call(0); run Call(1); run Call(2) } }

#define REST (over == 3 && !leased[0] && !leased[1] && !leased[2])

ltl within      { [] (spent + reserved <= cap) }
ltl covered     { [] (bill <= spent + reserved && bill <= cap) }
ltl at_rest     { [] (!REST || reserved == 0) }
ltl exact       { [] (!REST || (known + charged[0] + charged[1] + charged[2] == spent && !unbooked)) }
ltl can_refuse  { [] (!refused) }
ltl can_correct { [] (!corrected) }
ltl can_all     { [] (made < 3) }
