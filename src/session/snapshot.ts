/**
 * A session's snapshot as text: an envelope that says which machine and version wrote it, so that brokers of several
 * releases can share a store.
 *
 * Invariants:
 *  N1  What was ever written can be read by every later release: no step of a table is ever removed or changed.
 *  N2  A step leads both ways. Downwards it may lose what the older version has no place for, and upwards again it
 *      gives that a default: a session goes on in either version.
 *  N3  A snapshot of a version that is not known here is never guessed at: {@link SnapshotCodec.isNewer} tells before
 *      anything is done, and reading it throws.
 */
import { NOTHING } from '../../actors/draft.ts';
import type { SessionStateValue } from '../../actors/session.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import { EnclaveError } from '../errors.ts';

export interface DecodedSnapshot {
  readonly value: SessionStateValue;
  readonly context: SessionContext;
}

/** A snapshot of some version, as JSON data. */
export type SnapshotBody = Readonly<Record<string, unknown>>;

/** Between a version and the next. Both ways are pure: they change nothing of what they are given. */
export interface SnapshotStep {
  readonly up: (body: SnapshotBody) => SnapshotBody;
  readonly down: (body: SnapshotBody) => SnapshotBody;
}

/** What a release reads and writes. */
export interface SnapshotCodec {
  /** It reads and writes the versions from 1 to this one. */
  readonly newest: number;
  /** `version`: default the newest. Throws RangeError for one that it does not write. */
  encode(value: SessionStateValue, context: SessionContext, epoch: number, version?: number): string;
  /** Throws ENGINE_MISMATCH for a snapshot of another machine or of a version that it does not read. */
  decode(text: string): DecodedSnapshot;
  /** A newer release wrote it: this one cannot read it, and others can (N3). */
  isNewer(text: string): boolean;
}

interface Envelope {
  readonly machine: unknown;
  readonly version: unknown;
  readonly epoch: number;
  readonly body: SnapshotBody;
}

/** What every envelope of ours begins with: the version is known without reading the rest. */
const HEAD = /^\{"machine":"session","version":(\d{1,9}),/;

/**
 * The codec of a table. `steps[n]` lies between the versions n + 1 and n + 2.
 *
 * `newest` and `held` are for tests, which pose as other releases: a release that knows only the first versions of the
 * table, and the version of which the machine of this process is. Default of both: the last one.
 */
export function codecOf(
  steps: readonly SnapshotStep[],
  newest = steps.length + 1,
  held = newest,
): SnapshotCodec {
  const step = (index: number): SnapshotStep => {
    const found = steps[index];
    if (found === undefined) throw new RangeError(`There is no step between ${index + 1} and ${index + 2}`);
    return found;
  };
  const convert = (body: SnapshotBody, from: number, to: number): SnapshotBody => {
    let current = body;
    for (let version = from; version < to; version++) current = step(version - 1).up(current);
    for (let version = from; version > to; version--) current = step(version - 2).down(current);
    return current;
  };
  return {
    newest,
    encode(value, context, epoch, version = newest) {
      if (!isVersion(version) || version > newest)
        throw new RangeError(`Version ${version} is not one of 1 to ${newest}`);
      const body =
        version === held
          ? textOfBody(value, context)
          : JSON.stringify(convert(bodyOf(value, context), held, version));
      return `{"machine":"session","version":${version},"epoch":${epoch},"body":${body}}`;
    },
    decode(text) {
      const { machine, version, body } = JSON.parse(text) as Envelope;
      if (machine !== 'session' || !isVersion(version) || version > newest)
        throw new EnclaveError(
          'ENGINE_MISMATCH',
          `The snapshot is of ${machine} version ${version}; this broker reads versions 1 to ${newest}`,
        );
      const { value, context } = convert(body, version, held) as unknown as DecodedSnapshot;
      return { value, context: { ...context, out: NOTHING } };
    },
    isNewer(text) {
      const version = versionOf(text);
      return version !== undefined && version > newest;
    },
  };
}

/** Undefined for what is no snapshot of a session. */
export function versionOf(text: string): number | undefined {
  const head = HEAD.exec(text);
  if (head !== null) return Number(head[1]);
  try {
    const { machine, version } = JSON.parse(text) as Envelope;
    return machine === 'session' && isVersion(version) ? version : undefined;
  } catch {
    return undefined;
  }
}

function isVersion(version: unknown): version is number {
  return Number.isInteger(version) && (version as number) >= 1;
}

function bodyOf(value: SessionStateValue, { out: _out, ...context }: SessionContext): SnapshotBody {
  return { value, context };
}

/** JSON of {@link bodyOf}. Most of a snapshot is as it was in the one before. */
function textOfBody(value: SessionStateValue, context: SessionContext): string {
  const { out: _out, settings, finished, ...changing } = context;
  return `{"value":"${value}","context":{"settings":${textOf(settings)},"finished":[${finished.map(textOf).join()}],${JSON.stringify(changing).slice(1)}}`;
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
