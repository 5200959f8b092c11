/**
 * The last operations of one session: a ring that needs no versions, because every commit makes the next one.
 *
 * A session at rest has one of these, so it is an array of eight texts and nothing else.
 */
import { REMEMBERED_OPERATIONS } from './store.ts';

/** By version, modulo {@link REMEMBERED_OPERATIONS}; an empty text where nothing was committed yet. */
export type Operations = string[];

/** Remember the operation that made a version. */
export function remember(operations: Operations | undefined, version: number, operation: string): Operations {
  const ring = operations ?? ['', '', '', '', '', '', '', ''];
  ring[version % REMEMBERED_OPERATIONS] = operation;
  return ring;
}

/** The version that an operation made, if it is one of the last; `version` is the latest there is. */
export function versionOf(
  operations: Operations | undefined,
  version: number,
  operation: string,
): number | undefined {
  if (operations === undefined) return undefined;
  const slot = operations.indexOf(operation);
  if (slot === -1) return undefined;
  const age = (version - slot) % REMEMBERED_OPERATIONS;
  return version - age;
}
