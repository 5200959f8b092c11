/**
 * The next release, as far as sessions' snapshots go: it takes the place of src/session/release.ts where a test poses
 * as that release. Its version lies above the newest of this one and is one that this release could make nothing of.
 *
 * Its machine is today's: {@link NEXT} only changes how a snapshot is written. So both releases must behave alike, and
 * whatever gets lost between them was lost by the mechanism.
 */
import { STEPS as KNOWN } from '../../src/session/release.ts';
import { codecOf, type SnapshotBody, type SnapshotStep } from '../../src/session/snapshot.ts';

interface Today {
  readonly value: string;
  readonly context: {
    readonly pending: readonly { readonly id: string }[];
    readonly executions: readonly object[];
  };
}

interface Next {
  readonly state: string;
  readonly session: {
    /** By id. */
    readonly effects: readonly (readonly [string, object])[];
    readonly work: readonly object[];
  };
  /** This release has no place for it. */
  readonly madeBy: string;
}

export const NEXT: SnapshotStep = {
  up(body) {
    const { value, context } = body as unknown as Today;
    const { pending, executions, ...rest } = context;
    const effects = pending.map(({ id, ...effect }) => [id, effect] as const);
    const session: Next['session'] = { ...rest, effects, work: executions };
    return { state: value, session, madeBy: 'next' } satisfies Next as unknown as SnapshotBody;
  },
  down(body) {
    const { state, session } = body as unknown as Next;
    const { effects, work, ...rest } = session;
    const pending = effects.map(([id, effect]) => ({ id, ...effect }));
    const context: Today['context'] = { ...rest, pending, executions: work };
    return { value: state, context } satisfies Today as unknown as SnapshotBody;
  },
};

export const STEPS: readonly SnapshotStep[] = [...KNOWN, NEXT];

export const CODEC = codecOf(STEPS, STEPS.length + 1, KNOWN.length + 1);
