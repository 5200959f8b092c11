/**
 * Time and chance, as a port: everything of the durable half takes them from here, so that a simulator can put a
 * virtual clock and a seeded generator in their place.
 */
import { getRandomValues } from 'node:crypto';

export interface Clock {
  /** Wall-clock time, in whole ms since the epoch. May jump. */
  now(): number;
  /** Time that never goes back, in ms from an arbitrary start. Leases are judged by it. */
  monotonic(): number;
  /**
   * Call `act` once, not before `ms` have passed. Returns a function that calls it off; calling that again does
   * nothing. `keepsAlive` (default false): the process does not end by itself while this waits.
   */
  after(ms: number, act: () => void, keepsAlive?: boolean): () => void;
  /** Call `act` soon, never within this call, in the order in which it was asked for. */
  soon(act: () => void): void;
  /** 22 characters of `[A-Za-z0-9_-]` that nobody can guess and nobody had before. */
  id(): string;
}

const ID_BYTES = 16;
/** Longest timer of the platform, in ms; a longer wait is waited in parts. */
const MAX_TIMER_MS = 2_147_483_647;

// Asking the system for randomness costs more per call than per byte.
const randomness = Buffer.alloc(ID_BYTES * 256);
let used = randomness.length;

/** Acts in one turn of the event loop: actors that only answer each other must not keep timers and sockets waiting. */
const ACTS_PER_TURN = 512;
let acts: (() => void)[] = [];
let acting = false;
let actsThisTurn = 0;
let turning = false;

/** Have what waits run: in this turn of the event loop, or in the next if this one has lasted. */
function schedule(): void {
  acting = true;
  if (!turning) {
    turning = true;
    setImmediate(() => {
      turning = false;
      actsThisTurn = 0;
    });
  }
  if (actsThisTurn < ACTS_PER_TURN) queueMicrotask(actOnAll);
  else setImmediate(actOnAll);
}

/** Run what waits, in order; what is asked for meanwhile comes after it. */
function actOnAll(): void {
  let done = 0;
  for (; done < acts.length && actsThisTurn < ACTS_PER_TURN; done++) {
    actsThisTurn++;
    try {
      acts[done]?.();
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
  acts = acts.slice(done);
  acting = false;
  if (acts.length > 0) schedule();
}

/** The machine's own clock and randomness. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after: (ms, act, keepsAlive = false) => {
    let timer: NodeJS.Timeout;
    const wait = (left: number): void => {
      const part = Math.min(left, MAX_TIMER_MS);
      timer = setTimeout(() => (left > part ? wait(left - part) : act()), part);
      if (!keepsAlive) timer.unref();
    };
    wait(Math.max(0, ms));
    return () => clearTimeout(timer);
  },
  soon: (wanted) => {
    acts.push(wanted);
    if (!acting) schedule();
  },
  id: () => {
    if (used === randomness.length) {
      getRandomValues(randomness);
      used = 0;
    }
    used += ID_BYTES;
    return randomness.toString('base64url', used - ID_BYTES, used);
  },
};
