/** What a broker counts of itself, for its operator and for whoever starts runtimes. */

import type { Labels } from '../../actors/placement.ts';
import { waitingFor } from '../../actors/placing.ts';
import type { Routing } from '../../actors/routing.ts';
import type { SessionStateValue } from '../../actors/session.ts';
import type { SessionContext } from '../../actors/sessiondata.ts';
import type { SessionActor } from './actor.ts';

const STATUSES = Object.keys({
  starting: true,
  idle: true,
  executing: true,
  waiting: true,
  hibernated: true,
  migrating: true,
  closed: true,
  expired: true,
} satisfies Record<SessionStateValue, true>) as readonly SessionStateValue[];

type Counted = Pick<SessionActor, 'context' | 'status'>;

export interface CensusOptions {
  /** The sessions that have an actor here. */
  readonly hosting: { all(): Iterable<{ readonly actor: Counted }> };
  /** The stateless runs that are here. */
  readonly runs: { actors(): Iterable<Pick<Counted, 'context'>> };
  /** How this broker places. Default: on the runtime with the most room. */
  readonly routing?: Routing | undefined;
  /** Labels of the runtimes that the namespace's autoscaler would start. Default: none. */
  readonly startable?: Labels | undefined;
}

export class Census {
  readonly #options: CensusOptions;

  constructor(options: CensusOptions) {
    this.#options = options;
  }

  /** Sessions with an actor here, by status; every status is there. */
  statuses(): ReadonlyMap<SessionStateValue, number> {
    const counts = new Map(STATUSES.map((status) => [status, 0]));
    for (const { actor } of this.#options.hosting.all())
      counts.set(actor.status, (counts.get(actor.status) ?? 0) + 1);
    return counts;
  }

  /** Executions here that wait for room in any runtime. */
  waiting(): number {
    return this.#sum(({ executions }) =>
      executions.reduce((sum, { phase }) => (phase === 'placing' ? sum + 1 : sum), 0),
    );
  }

  /** Of those that wait, the ones that a runtime which the autoscaler would start could take: what it counts as load. */
  demand(): number {
    const { startable = {}, routing } = this.#options;
    return this.#sum((context) => waitingFor(context, startable, routing));
  }

  #sum(countOf: (context: SessionContext) => number): number {
    const { hosting, runs } = this.#options;
    let sum = 0;
    for (const { actor } of hosting.all()) sum += countOf(actor.context);
    for (const { context } of runs.actors()) sum += countOf(context);
    return sum;
  }
}
