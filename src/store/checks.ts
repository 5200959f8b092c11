/**
 * What a caller of any store must not hand over. A wrong argument is a mistake in the program and no state of the
 * world, so it is refused with a RangeError that names the field, before anything is written.
 */
import { ID } from '../subjects.ts';
import type { Acquisition, Commit, Creation, Share } from './store.ts';

/** Refuses what is not `[A-Za-z0-9_-]{1,64}`. */
export function checkId(field: string, id: string): void {
  if (!ID.test(id)) throw new RangeError(`${field} must match [A-Za-z0-9_-]{1,64}`);
}

/** Refuses what is not an integer of at least `least`. */
export function checkInteger(field: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least)
    throw new RangeError(`${field} must be an integer of at least ${least}`);
}

/** Refuses what is not a time to live: a positive, finite number of ms. */
export function checkTtl(ttlMs: number): void {
  if (!Number.isFinite(ttlMs) || ttlMs <= 0) throw new RangeError('ttlMs must be a positive number');
}

export function checkCreation(creation: Creation): void {
  checkId('session', creation.session);
  checkOperation(creation.operation);
  checkWake(creation.wakeAt);
}

export function checkAcquisition({ minEpoch, expectedEpoch }: Acquisition): void {
  if (minEpoch !== undefined) checkInteger('minEpoch', minEpoch, 0);
  if (expectedEpoch !== undefined) checkInteger('expectedEpoch', expectedEpoch, 0);
}

export function checkShare({ name, holder, has, ttlMs, most }: Share): void {
  checkId('name', name);
  checkId('holder', holder);
  checkInteger('has', has, 0);
  checkTtl(ttlMs);
  if (most !== undefined) checkInteger('most', most, 0);
}

/** What is wrong with a commit whatever the record says. */
export function checkCommit(commit: Commit): void {
  checkWake(commit.wakeAt);
  checkOperation(commit.operation);
  if (commit.journal !== undefined)
    for (const { execution } of commit.journal) checkId('journal.execution', execution);
  if (commit.forget !== undefined) for (const execution of commit.forget) checkId('forget', execution);
}

/**
 * What is wrong with a commit given the number of the last event. To be called when it is neither fenced, nor
 * repeated, nor in conflict: in those its numbers are rightly old.
 */
export function checkNumbers({ firstSeq, publishedSeq, events }: Commit, seq: number): void {
  if (firstSeq !== seq + 1) throw new RangeError(`firstSeq must be ${seq + 1} and is ${firstSeq}`);
  checkInteger('publishedSeq', publishedSeq, 0);
  // What was not committed was never published.
  if (publishedSeq > seq + events.length)
    throw new RangeError(`publishedSeq must not be above ${seq + events.length} and is ${publishedSeq}`);
}

function checkOperation(operation: string): void {
  if (operation === '') throw new RangeError('operation must not be empty');
}

function checkWake(wakeAt: number | undefined): void {
  if (wakeAt !== undefined && !Number.isFinite(wakeAt))
    throw new RangeError('wakeAt must be a finite number or undefined');
}
