/**
 * A release whose snapshots are two versions ahead of this one's. It begins below its newest and yet above what this
 * one reads, so that brokers meet what is too new for them all the time, and not only after a long agreement.
 */
import { codecOf, type SnapshotBody, type SnapshotStep } from '../../src/session/snapshot.ts';
import { STEPS } from '../support/nextrelease.ts';

const WRAPPED: SnapshotStep = {
  up: (body) => ({ wrapped: body }),
  down: ({ wrapped }) => wrapped as SnapshotBody,
};

export const AHEAD = codecOf([...STEPS, WRAPPED], STEPS.length + 2, STEPS.length);
