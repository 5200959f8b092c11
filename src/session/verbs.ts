/** What a broker is asked for: by anybody, as one of all brokers, and by another broker, by its name. */
import { hasWork } from '../../actors/session.ts';
import type { Bus, Subscription, TraceHeaders } from '../bus/bus.ts';
import type { Activated, ActivateSession, Reply } from '../protocol.ts';
import { success } from '../replies.ts';
import type { Store } from '../store/store.ts';
import { BROKERS, type BrokerVerb, type Subjects } from '../subjects.ts';
import type { Allowance } from './allowance.ts';
import {
  activateOf,
  askOf,
  checked,
  createOf,
  listSessionsOf,
  listToolsOf,
  readEventsOf,
  runOf,
} from './asked.ts';
import type { Creation } from './creation.ts';
import type { Hosting } from './hosting.ts';
import type { Ownership } from './ownership.ts';
import type { Places } from './places.ts';
import type { Queries } from './queries.ts';
import { noPlace, notNow, type Respond } from './responses.ts';
import type { Runs } from './runs.ts';
import type { ToolDirectory } from './tooldirectory.ts';
import type { Snapshots } from './versions.ts';

export interface VerbsOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly store: Pick<Store, 'load'>;
  readonly subjects: Subjects;
  readonly creation: Creation;
  readonly hosting: Pick<Hosting, 'has'>;
  readonly ownership: Pick<Ownership, 'activate' | 'isUnderway'>;
  readonly places: Pick<Places, 'limited' | 'within'>;
  readonly queries: Queries;
  readonly runs: Pick<Runs, 'take'>;
  readonly snapshots: Pick<Snapshots, 'isNewer' | 'decode'>;
  readonly tools: Pick<ToolDirectory, 'list'>;
  /** True while the broker takes something new. */
  readonly isOpen: () => boolean;
  readonly respond: Respond;
  /** What it grants to those who ask. */
  readonly allowance: Allowance;
}

export class Verbs {
  readonly #options: VerbsOptions;

  constructor(options: VerbsOptions) {
    this.#options = options;
  }

  /** Answer from now on, until the subscriptions are given up. */
  listen(): Subscription[] {
    const { broker, bus, subjects, respond, allowance } = this.#options;
    const { creation, queries, runs, tools } = this.#options;
    const verb = <T>(
      name: BrokerVerb,
      check: (body: unknown) => T,
      answer: (asked: T, trace: TraceHeaders | undefined) => Promise<Reply<unknown>>,
    ): Subscription =>
      bus.subscribe(subjects.broker(name), (message) => respond(message, checked(check, answer)), {
        queue: BROKERS,
      });
    return [
      verb(
        'run',
        (body) => runOf(body, subjects, allowance),
        (asked, trace) => runs.take(asked, trace),
      ),
      verb(
        'session_create',
        (body) => createOf(body, allowance),
        (asked) => creation.create(asked),
      ),
      verb('session_activate', activateOf, (asked) => this.#wake(asked)),
      verb('session_info', askOf, (asked) => queries.info(asked)),
      verb('sessions_list', listSessionsOf, (asked) => queries.list(asked)),
      verb('session_result', askOf, (asked) => queries.result(asked)),
      verb('events_read', readEventsOf, (asked) => queries.events(asked)),
      verb('journal_read', askOf, (asked) => queries.journal(asked)),
      verb('tools_list', listToolsOf, async (asked) => success(tools.list(asked), 0)),
      bus.subscribe(subjects.brokerCmd(broker), (message) =>
        respond(
          message,
          checked(activateOf, (asked) => this.#activate(asked)),
        ),
      ),
    ];
  }

  /** For a client: one that was put away, and has nothing to do, needs a place as a new one does. */
  async #wake(asked: ActivateSession): Promise<Reply<Activated>> {
    const { places } = this.#options;
    if (!places.limited || !(await this.#isAway(asked.session))) return this.#activate(asked);
    return (await places.within(asked.session, () => this.#activate(asked))) ?? noPlace();
  }

  async #isAway(session: string): Promise<boolean> {
    const { hosting, ownership, store, snapshots } = this.#options;
    if (hosting.has(session) || ownership.isUnderway(session)) return false;
    const record = await store.load(session);
    if (record === undefined || record.owner !== undefined) return false;
    if (snapshots.isNewer(record.snapshot)) return false;
    const { context } = snapshots.decode(record.snapshot);
    return context.ended === '' && !hasWork(context);
  }

  #activate({ session, minEpoch }: ActivateSession): Promise<Reply<Activated>> {
    const { isOpen, ownership } = this.#options;
    return isOpen() ? ownership.activate(session, minEpoch) : Promise.resolve(notNow());
  }
}
