/**
 * A session's snapshot as text: an envelope that says which machine and version wrote it, so that any later version
 * can read it.
 *
 * `UPCASTERS[n]` turns a body of version n into one of version n + 1. A change of what a snapshot holds adds one,
 * raises {@link SNAPSHOT_VERSION}, and adds a golden snapshot to `test/golden/`; none is ever removed.
 */
import { NOTHING } from '../../actors/draft.ts';
import type { SessionStateValue } from '../../actors/session.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import { EnclaveError } from '../errors.ts';

export const SNAPSHOT_VERSION = 1;

interface Body {
  readonly value: SessionStateValue;
  readonly context: Omit<SessionContext, 'out'>;
}

interface Envelope {
  readonly machine: 'session';
  readonly version: number;
  readonly epoch: number;
  readonly body: unknown;
}

/** From the version of its index to the next. */
const UPCASTERS: readonly ((body: unknown) => unknown)[] = [];

export function encodeSnapshot(value: SessionStateValue, context: SessionContext, epoch: number): string {
  const { out: _out, settings, finished, ...changing } = context;
  // Most of a snapshot is as it was in the one before.
  const body = `{"value":"${value}","context":{"settings":${textOf(settings)},"finished":[${finished.map(textOf).join()}],${JSON.stringify(changing).slice(1)}}`;
  return `{"machine":"session","version":${SNAPSHOT_VERSION},"epoch":${epoch},"body":${body}}`;
}

const texts = new WeakMap<object, string>();

/** JSON of a value that never changes. */
export function textOf(value: object): string {
  let text = texts.get(value);
  if (text === undefined) {
    text = JSON.stringify(value);
    texts.set(value, text);
  }
  return text;
}

/** Read a snapshot of this version or an earlier one. Throws ENGINE_MISMATCH for one of a later version. */
export function decodeSnapshot(text: string): {
  readonly value: SessionStateValue;
  readonly context: SessionContext;
} {
  const { machine, version, body } = JSON.parse(text) as Envelope;
  if (machine !== 'session' || !Number.isInteger(version) || version > SNAPSHOT_VERSION || version < 1) {
    throw new EnclaveError(
      'ENGINE_MISMATCH',
      `The snapshot is of ${machine} version ${version}; this broker reads versions 1 to ${SNAPSHOT_VERSION}`,
    );
  }
  let current = body;
  for (let from = version; from < SNAPSHOT_VERSION; from++) current = UPCASTERS[from - 1]?.(current);
  const { value, context } = current as Body;
  return { value, context: { ...context, out: NOTHING } };
}
