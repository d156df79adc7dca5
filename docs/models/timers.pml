/* Timers and signals: two steps of a run wait, one for the clock, one for a signal; two processes sweep, one sends the signal,
 * one cancels or pauses the run. No leader: whoever sweeps takes the run's lock and looks again.
 *
 * property  not_early   R5  a timer does not end before its time, by the database's clock
 * property  woken_once  I4  a wait frees its step once
 * property  absorbed    I5  a run that has ended has no step woken
 * property  held        I5  in a paused run what is woken is held, and nothing of it is claimed
 * property  taken_once  I7  a signal is given to one wait
 * liveness  wakes       P1  when its time is over and the signal sent, nothing of a run that goes on stays waiting
 * reach     can_early_signal  a signal may come before anybody waits for it
 * reach     can_hold    a timer may end while the run is paused
 *
 * witness   SWEEP_UNCHECKED  woken_once  a sweeper ends the wait it saw, whatever it is by then
 * witness   SWEEP_ENDED      absorbed    a sweeper does not look whether the run has ended
 * witness   OWN_CLOCK        not_early   a sweeper goes by its own clock, which runs ahead
 * witness   WAKE_READY       held        what is woken is made ready in a paused run, too
 * witness   SIGNAL_KEPT      taken_once  a signal that a wait took is left for the next
 * witness   SIGNAL_UNLOCKED  wakes       a signal looks for its wait in one transaction and is kept in another
 * witness   ONE_SWEEPER      wakes       only one process sweeps, and it dies
 */
#define TIMER 0
#define SIGNAL 1
#define DUE 2

mtype = { running, paused, over }
mtype = { none, open, answered, cancelled }
mtype = { leased, waiting, ready, held_, ended }

mtype state = running;
mtype wait[2];
mtype status[2];
byte now;            /* the database's clock */
bool kept;           /* a signal that nobody has taken yet */
bool sent;

/* What the properties speak of. */
byte wakes_of[2], deliveries;
bool early, stirred, loose, early_signal, held_timer;

/* engine/waiting.py, end_wait: under the run's lock. */
inline end_wait(no) {
  stirred = stirred || state == over;
  wait[no] = answered;
  wakes_of[no]++;
  deliveries = deliveries + (no == SIGNAL);
  early = early || (no == TIMER && now < DUE);
  held_timer = held_timer || (no == TIMER && state == paused);
#ifndef WAKE_READY
  if :: state == paused -> status[no] = held_ :: else -> status[no] = ready fi
#else
  status[no] = ready
#endif
}

/* The steps open their waits with the end of an attempt; a signal that came before is taken at once. */
proctype Step(byte no) {
  atomic {
    if
    :: state == over -> goto out
    :: else ->
      wait[no] = open;
      status[no] = waiting;
      if
      :: no == SIGNAL && kept ->
#ifndef SIGNAL_KEPT
        kept = false;
#endif
        early_signal = true;
        end_wait(no)
      :: else
      fi
    fi
  };
  if
  :: atomic { status[no] == ready -> loose = loose || state == paused; status[no] = ended }
  :: status[no] == ended
  fi;
#ifdef SIGNAL_KEPT
  if :: atomic { no == SIGNAL && kept -> deliveries++ } :: else fi; /* it waits for the next signal, and takes the same */
#endif
out:
  skip
}

/* `due` finds candidates without a lock; `_settle_one` looks again under the run's. */
proctype Sweeper() {
#ifdef OWN_CLOCK
#define OVERDUE (now + 1 >= DUE)
#else
#define OVERDUE (now >= DUE)
#endif
  do
  :: wait[TIMER] == open && OVERDUE ->
#ifdef ONE_SWEEPER
    if :: true -> break :: true fi; /* kill -9 */
#endif
    atomic {
      if
#ifdef SWEEP_UNCHECKED
      :: state != over ->
#else
#ifdef SWEEP_ENDED
      :: wait[TIMER] != answered ->
#else
      :: wait[TIMER] == open && state != over && OVERDUE ->
#endif
#endif
        end_wait(TIMER)
      :: else
      fi
    }
  :: wait[TIMER] == answered || state == over -> break
  od
}

proctype Sender() {
#ifdef SIGNAL_UNLOCKED
  bool found;
  found = wait[SIGNAL] == open;
#endif
  atomic {
    if
    :: state == over -> skip /* Conflict: nobody will hear it */
    :: else ->
      sent = true;
#ifdef SIGNAL_UNLOCKED
      if :: found && wait[SIGNAL] == open -> end_wait(SIGNAL) :: else -> kept = true fi
#else
      if :: wait[SIGNAL] == open -> end_wait(SIGNAL) :: else -> kept = true fi
#endif
    fi
  }
}

proctype Clock() {
  do
  :: now < DUE -> now++
  :: now == DUE && state != over && !(status[TIMER] == ended && status[SIGNAL] == ended) /* time goes on */
  :: now == DUE && (state == over || (status[TIMER] == ended && status[SIGNAL] == ended)) -> break
  od
}

/* Cancels, or pauses and resumes; both hold the run's lock. */
proctype Controller() {
  byte no;
  if
  :: atomic {
      state = over;
      for (no : 0 .. 1) {
        if :: wait[no] == open -> wait[no] = cancelled :: else fi;
        if :: status[no] != leased -> status[no] = ended :: else fi
      }
    }
  :: atomic {
      state = paused;
      for (no : 0 .. 1) { if :: status[no] == ready -> status[no] = held_ :: else fi }
    }
    atomic {
      state = running;
      for (no : 0 .. 1) { if :: status[no] == held_ -> status[no] = ready :: else fi }
    }
  :: true
  fi
}

init {
  atomic {
    wait[0] = none; wait[1] = none; status[0] = leased; status[1] = leased;
    run Step(TIMER); run Step(SIGNAL); run Sender(); run Clock(); run Controller(); run Sweeper();
#ifndef ONE_SWEEPER
    run Sweeper()
#endif
  }
}

ltl not_early        { [] (!early) }
ltl woken_once       { [] (wakes_of[TIMER] <= 1 && wakes_of[SIGNAL] <= 1) }
ltl absorbed         { [] (!stirred) }
ltl held             { [] (!loose) }
ltl taken_once       { [] (deliveries <= 1) }
ltl wakes            { <> [] (state == over || (status[TIMER] == ended && status[SIGNAL] == ended)) }
ltl can_early_signal { [] (!early_signal) }
ltl can_hold         { [] (!held_timer) }
