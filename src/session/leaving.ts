/**
 * Giving sessions up: to another broker, to the store alone, or for good.
 *
 * Upholds H3 of broker.ts.
 */
import { isQuiet } from '../../actors/session.ts';
import type { Answer } from '../../actors/sessiondata.ts';
import { type Bus, BusError } from '../bus/bus.ts';
import type { Activated, AdoptSession, Reply } from '../protocol.ts';
import { failure, fenced, success } from '../replies.ts';
import type { Subjects } from '../subjects.ts';
import type { SessionActor } from './actor.ts';
import type { Directory } from './directory.ts';
import type { Hosted, Hosting } from './hosting.ts';
import type { Notify } from './notice.ts';
import type { Ownership } from './ownership.ts';
import { nobodyElse, notNow, refused } from './responses.ts';

/** Longest wait for another broker to adopt a session, in ms. */
const ADOPT_MS = 5_000;

export interface LeavingOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly subjects: Subjects;
  readonly directory: Pick<Directory, 'brokers' | 'successor' | 'settled'>;
  readonly hosting: Pick<Hosting, 'listen' | 'deafen' | 'drop' | 'purge'>;
  readonly ownership: Pick<Ownership, 'acquire' | 'during' | 'owned'>;
  /** True while the broker takes sessions on. */
  readonly isOpen: () => boolean;
  readonly notify: Notify;
}

export class Leaving {
  readonly #options: LeavingOptions;

  constructor(options: LeavingOptions) {
    this.#options = options;
  }

  /** Answer a command that moves or ends a session; undefined for every other one. */
  command(hosted: Hosted, body: object): Promise<Reply<unknown>> | undefined {
    const { t, to, fromEpoch } = body as {
      readonly t: string;
      readonly to?: string;
      readonly fromEpoch?: number;
    };
    if (t === 'migrate') return this.#migrate(hosted, to, fromEpoch);
    if (t === 'hibernate') return this.hibernate(hosted);
    if (t === 'delete') return this.#delete(hosted);
    return undefined;
  }

  /** H3. Answers with the new owner. */
  async #migrate(
    hosted: Hosted,
    to: string | undefined,
    fromEpoch: number | undefined,
  ): Promise<Reply<unknown>> {
    const { broker, directory, ownership } = this.#options;
    const { actor } = hosted;
    const { epoch } = actor.persistence;
    // The command came again, because its first answer was lost.
    if (fromEpoch !== undefined && epoch > fromEpoch) return ownership.owned(actor);
    if (!actor.persistence.durable)
      return failure('INVALID_ARGUMENT', "A session of durability 'none' cannot leave its broker", epoch);
    const target = to ?? directory.successor(broker);
    if (target === undefined) return nobodyElse(epoch, directory.settled);
    if (target === broker) return ownership.owned(actor);
    if (to !== undefined && !directory.brokers().some((other) => other.broker === to))
      return failure('NOT_FOUND', `There is no broker "${to}"`, epoch);
    const answer = await this.#giveUp(hosted, (ref, around) => ({ type: 'session.migrate', ref, ...around }));
    if (answer?.ok !== true) return answer === undefined ? fenced(epoch) : refused(answer, epoch);
    return this.#handOver(actor.id, target, epoch);
  }

  /** The broker drains: release the session, and hand it over if something of it is under way. */
  async leave(hosted: Hosted): Promise<void> {
    const { actor } = hosted;
    if (!actor.persistence.durable) return;
    const { epoch } = actor.persistence;
    const { broker, directory } = this.#options;
    await this.#giveUp(hosted, (ref, around) => ({ type: 'session.migrate', ref, ...around }));
    // Released is enough: whoever scans or is asked for it takes it up.
    if (actor.context.executions.length === 0) return;
    const target = directory.successor(broker);
    if (target !== undefined) await this.#handOver(actor.id, target, epoch);
  }

  /** H3. Stop its messages, take in what came, commit and release. Goes on as before if the machine refuses. */
  async #giveUp(hosted: Hosted, fact: Parameters<SessionActor['release']>[0]): Promise<Answer | undefined> {
    const { hosting } = this.#options;
    const { actor } = hosted;
    if (hosted.moving) return undefined;
    hosted.moving = true;
    await hosting.deafen(hosted);
    const answer = await actor.release(fact);
    if (actor.stopped) {
      hosting.drop(actor);
      return answer;
    }
    hosting.listen(hosted);
    hosted.moving = false;
    return answer;
  }

  /** Have another broker adopt it. Who asks meanwhile is told what comes of that. */
  #handOver(session: string, target: string, epoch: number): Promise<Reply<Activated>> {
    return this.#options.ownership.during(session, this.#adopt(session, target, epoch));
  }

  async #adopt(session: string, target: string, epoch: number): Promise<Reply<Activated>> {
    const { bus, subjects, ownership, isOpen, notify } = this.#options;
    try {
      const adopted = (await bus.request(
        subjects.brokerCmd(target),
        { t: 'adopt', session, minEpoch: epoch + 1 } satisfies AdoptSession,
        { timeoutMs: ADOPT_MS },
      )) as Reply<Activated>;
      if (adopted.ok && adopted.value.broker !== undefined) {
        notify({ type: 'session.handed_over', session, to: adopted.value.broker });
        return adopted;
      }
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
    }
    // Nobody may be left without an owner because of a hand-over.
    return isOpen() ? ownership.acquire(session, epoch) : notNow();
  }

  /** H3. Put it away until somebody asks for it, or its time comes. */
  async hibernate(hosted: Hosted): Promise<Reply<unknown>> {
    const { actor } = hosted;
    const { epoch, durable } = actor.persistence;
    if (!durable)
      return failure('INVALID_ARGUMENT', "A session of durability 'none' cannot hibernate", epoch);
    // Its messages are stopped only if it looks as if it would agree.
    if (!isQuiet(actor.context))
      return failure('OVERLOADED', 'The session has executions under way', epoch, { retryAfterMs: 1_000 });
    const answer = await this.#giveUp(hosted, (ref, around) => ({
      type: 'session.hibernate',
      ref,
      ...around,
    }));
    if (answer === undefined) return fenced(epoch);
    return answer.ok ? success({}, epoch) : refused(answer, epoch);
  }

  async #delete({ actor }: Hosted): Promise<Reply<unknown>> {
    const { epoch } = actor.persistence;
    const answer = await actor.ask((ref, around) => ({ type: 'session.close', ref, ...around }));
    if (answer === undefined) return fenced(epoch);
    return (await this.#options.hosting.purge(actor.id)) ? success({}, epoch) : notNow();
  }
}
