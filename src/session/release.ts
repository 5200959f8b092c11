/**
 * The versions of a session's snapshot that this release knows.
 *
 * A change of what a snapshot holds that an older release could not live with adds a step at the end, and a set of
 * golden snapshots of the new version to `test/golden/`. A field that older releases may ignore, and that may be
 * missing, needs no step.
 */
import { codecOf, type SnapshotStep } from './snapshot.ts';

export const STEPS: readonly SnapshotStep[] = [];

export const CODEC = codecOf(STEPS);
