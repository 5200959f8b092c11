/** Commits of sessions to the store. */
import type { Registry } from 'prom-client';
import type { CommitOutcome } from './catalog.ts';
import { counterOf, histogramOf } from './registry.ts';

/** Outcomes that are no answer. */
const UNANSWERED: readonly CommitOutcome[] = ['unavailable', 'unknown', 'closed', 'error'];

/** Told of every commit, `ms` after it was asked for. */
export type OnCommit = (outcome: CommitOutcome, ms: number) => void;

export function meterCommits(registry: Registry): OnCommit {
  const total = counterOf(registry, 'enclave_commits_total');
  const fenced = counterOf(registry, 'enclave_fenced_writes_total');
  const latency = histogramOf(registry, 'enclave_commit_latency_seconds');
  const series = new Map<CommitOutcome, { readonly outcome: CommitOutcome }>();
  return (outcome, ms) => {
    let labels = series.get(outcome);
    if (labels === undefined) series.set(outcome, (labels = { outcome }));
    total.inc(labels);
    if (outcome === 'fenced') fenced.inc();
    if (!UNANSWERED.includes(outcome)) latency.observe(ms / 1_000);
  };
}
