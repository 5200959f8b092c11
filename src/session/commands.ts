/** What a session's owner answers to the commands of clients. */
import { hash } from 'node:crypto';
import type { Versions } from '../../actors/attempt.ts';
import type { Answer } from '../../actors/sessiondata.ts';
import type { TraceHeaders } from '../bus/bus.ts';
import { EnclaveError } from '../errors.ts';
import { MOST_LIMITS } from '../options.ts';
import type { JournalRead, Reply, SessionCommand, SessionInfoAnswer, SessionLimits } from '../protocol.ts';
import { failure, fenced, success } from '../replies.ts';
import { ID } from '../subjects.ts';
import type { SessionActor } from './actor.ts';
import { granted, inherited } from './allowance.ts';
import { checkInput } from './asked.ts';
import { SessionJournal } from './journal.ts';
import { executionsOf } from './load.ts';
import { overLimit } from './responses.ts';

/** How far a client's clock may be ahead of its broker's, in ms. */
const MAX_AHEAD_MS = 600_000;

export interface Answering {
  /** Who answers. */
  readonly broker: string;
  /** The ceiling of what is asked for. Default: the ends of the ranges. */
  readonly most?: SessionLimits | undefined;
  readonly trace?: TraceHeaders | undefined;
}

/** Answer a command that the machine, or what is remembered, can answer. */
export async function answerCommand(
  actor: SessionActor,
  body: object,
  { broker, most = MOST_LIMITS, trace }: Answering,
): Promise<Reply<unknown>> {
  const command = body as SessionCommand;
  const { epoch } = actor.persistence;
  switch (command.t) {
    case 'execute':
      return execute(actor, command, most, trace);
    case 'cancel': {
      const { execution, reason } = command;
      return told(
        actor,
        await actor.ask((ref, around) => ({
          type: 'execution.cancel',
          ref,
          execution,
          reason: reason.slice(0, 1_000),
          ...around,
        })),
      );
    }
    case 'close':
      return told(actor, await actor.ask((ref, around) => ({ type: 'session.close', ref, ...around })));
    case 'result': {
      while (actor.committing) await actor.committed();
      const running = actor.context.executions.some(({ id }) => id === command.execution);
      if (running) return success({ status: 'running', result: undefined }, epoch);
      const result = await actor.persistence.readField(`result:${command.execution}`);
      return success({ status: result === undefined ? 'unknown' : 'ended', result }, epoch);
    }
    case 'info':
      while (actor.committing) await actor.committed();
      return success(infoOf(actor, broker), epoch);
    case 'events':
      return success(await actor.persistence.readEvents(command.fromSeq, command.limit), epoch);
    case 'journal':
      return journalOf(actor, command.execution);
    default:
      return failure('INVALID_ARGUMENT', `There is no command "${String(command.t)}"`, epoch);
  }
}

async function execute(
  actor: SessionActor,
  command: Extract<SessionCommand, { t: 'execute' }>,
  most: SessionLimits,
  trace: TraceHeaders | undefined,
): Promise<Reply<unknown>> {
  const { execution: id, source, input, seed, issuedAt, tell } = command;
  const { epoch } = actor.persistence;
  let limits: SessionLimits;
  try {
    // One that comes again is answered as the first time, though less may be granted by now.
    limits = isKnown(actor, id)
      ? inherited(granted(command.limits, actor.limits, MOST_LIMITS), most)
      : granted(command.limits, actor.limits, most);
    checkInput(input, limits);
  } catch (error) {
    return failure(
      'INVALID_ARGUMENT',
      error instanceof EnclaveError ? error.message : 'options.limits',
      epoch,
    );
  }
  // It becomes the horizon before which commands count as forgotten: a clock far ahead would shut the session.
  if (issuedAt > actor.now() + MAX_AHEAD_MS)
    return failure(
      'INVALID_ARGUMENT',
      'issuedAt: is more than ten minutes ahead of the broker: one of the clocks is wrong',
      epoch,
    );
  if (typeof id !== 'string' || !ID.test(id))
    return failure('INVALID_ARGUMENT', 'commandId: must be 1 to 64 of A-Z, a-z, 0-9, _ and -', epoch);
  if (Buffer.byteLength(source) > limits.maxSourceBytes)
    return failure(
      'SOURCE_LIMIT_EXCEEDED',
      `The source is larger than maxSourceBytes (${limits.maxSourceBytes})`,
      epoch,
    );
  // All three go to a runtime in one message.
  const bytes = Buffer.byteLength(source) + Buffer.byteLength(input) + Buffer.byteLength(actor.state);
  if (bytes > actor.maxOfferBytes)
    return failure(
      'SOURCE_LIMIT_EXCEEDED',
      `Source, input and state are ${bytes} bytes together, more than a message to a runtime carries (${actor.maxOfferBytes})`,
      epoch,
    );
  const admitted = actor.admit(id);
  if (typeof admitted === 'object') return overLimit(admitted, actor.tenant, epoch);
  const fingerprint = hash('sha1', `${source}\0${input}`, 'base64url').slice(0, 16);
  const { maxToolCalls, maxConcurrentToolCalls, timeoutMs, deadlineMs } = limits;
  const answer = await actor.request(
    {
      id,
      fingerprint,
      issuedAt,
      tell,
      limits: { maxToolCalls, maxConcurrentToolCalls, timeoutMs, deadlineMs },
    },
    { source, input, seed, limits, trace },
  );
  if (admitted === 'admitted' && answer?.ok !== true) actor.dismiss(id);
  return told(actor, answer);
}

function isKnown({ context: { executions, finished } }: SessionActor, execution: string): boolean {
  return [...executions, ...finished].some(({ id }) => id === execution);
}

/** The machine's answer as a reply. */
async function told(actor: SessionActor, answer: Answer | undefined): Promise<Reply<unknown>> {
  const { epoch } = actor.persistence;
  if (answer === undefined) {
    if (actor.stopped) return fenced(epoch);
    actor.noteFull('mailbox');
    return failure('OVERLOADED', 'The session has too many messages waiting', epoch, { retryAfterMs: 100 });
  }
  if (!answer.ok) {
    const { code, message, outcome, retryAfterMs } = answer;
    if (code === 'OVERLOADED') actor.noteFull('session');
    return failure(code, message, epoch, retryAfterMs === undefined ? undefined : { retryAfterMs }, outcome);
  }
  switch (answer.kind) {
    case 'ended': {
      const result = await actor.persistence.readField(`result:${answer.execution}`);
      return success({ execution: answer.execution, result }, epoch);
    }
    case 'cancelled':
      return success({ cancelled: answer.cancelled }, epoch);
    default:
      return success({ execution: '', result: undefined }, epoch);
  }
}

export function infoOf(actor: SessionActor, broker: string): SessionInfoAnswer {
  const { context, persistence } = actor;
  return {
    session: actor.id,
    status: actor.status,
    epoch: persistence.epoch,
    broker,
    runtime: context.runtime,
    seq: actor.seq,
    version: persistence.version,
    state: actor.state,
    labels: context.settings.labels,
    tenant: actor.tenant,
    durability: persistence.durable ? 'session' : 'none',
    executions: executionsOf(context),
  };
}

/** What a rerun of an execution needs. */
export async function journalOf(actor: SessionActor, execution: string): Promise<Reply<JournalRead>> {
  const { persistence } = actor;
  const { epoch } = persistence;
  const read = (field: string): Promise<string | undefined> => persistence.readField(`${field}:${execution}`);
  while (actor.committing) await actor.committed();
  const [source, input, spec, ran, base, result] = await Promise.all(
    ['source', 'input', 'spec', 'ran', 'base', 'result'].map(read),
  );
  if (source === undefined || spec === undefined)
    return failure('NOT_FOUND', `There is no execution "${execution}"`, epoch);
  const { seed, limits } = JSON.parse(spec) as {
    readonly seed: JournalRead['seed'];
    readonly limits: SessionLimits;
  };
  const journal = SessionJournal.read(await persistence.readJournal(execution));
  const live = actor.context.executions.find(({ id }) => id === execution);
  const { startTime, versions } = (
    ran === undefined ? { startTime: live?.startTime ?? 0, versions: live?.versions } : JSON.parse(ran)
  ) as { readonly startTime: number; readonly versions: Versions | undefined };
  return success(
    {
      source,
      input: input ?? '',
      state: base ?? actor.state,
      seed,
      startTime,
      limits,
      versions,
      calls: journal.trace(),
      deliveries: journal.after(0),
      result,
    },
    epoch,
  );
}
