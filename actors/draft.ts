/**
 * A session's next context while a step works it out. The step starts from a copy and hands it back whole, so that
 * from outside it is a function; what it is not told it cannot know.
 */
import type { EventPayloads, EventType } from './events.ts';
import type {
  Answer,
  Attempt,
  Execution,
  JournalEntry,
  OpenCall,
  Output,
  SessionContext,
  SessionEffect,
  StepEvent,
  Surroundings,
} from './sessiondata.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
export type ExecutionDraft = Mutable<Execution>;
type Lists<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer I)[] ? I[] : T[K] };

export interface Draft extends Omit<Mutable<SessionContext>, 'executions' | 'out'> {
  executions: Execution[];
  out: Lists<Output>;
  /** Of the fact that is being taken in. */
  readonly around: Surroundings;
  /** The step's fresh id is used. */
  placed: boolean;
}

function nothingYet(): Lists<Output> {
  return {
    urgent: false,
    effects: [],
    early: [],
    replies: [],
    events: [],
    journal: [],
    ended: [],
    accepted: [],
    state: undefined,
    forget: [],
    purge: false,
  };
}

/** What a step decided that decided nothing. */
export const NOTHING: Output = nothingYet();

export function beginDraft(context: SessionContext, around: Surroundings): Draft {
  return {
    ...context,
    executions: [...context.executions],
    out: nothingYet(),
    around,
    placed: false,
  };
}

export function endDraft(draft: Draft): SessionContext {
  const { around: _around, placed: _placed, ...context } = draft;
  return context;
}

export function findExecution(
  { executions }: { readonly executions: readonly Execution[] },
  id: string,
): Execution | undefined {
  return executions.find((execution) => execution.id === id);
}

/** A live execution, to be changed; undefined if there is none of that id. */
export function edit(draft: Draft, id: string): ExecutionDraft | undefined {
  const index = draft.executions.findIndex((execution) => execution.id === id);
  const found = draft.executions[index];
  if (found === undefined) return undefined;
  const copy = { ...found };
  draft.executions[index] = copy;
  return copy;
}

/** A live execution whose present attempt is the one named. */
export function editAttempt(
  draft: Draft,
  id: string,
  attempt: string,
): (ExecutionDraft & { attempt: Attempt }) | undefined {
  const found = findExecution(draft, id);
  if (found?.attempt?.id !== attempt) return undefined;
  return edit(draft, id) as ExecutionDraft & { attempt: Attempt };
}

/** After the commit. */
export function effect(draft: Draft, what: SessionEffect): void {
  draft.out.urgent = true;
  draft.out.effects.push(what);
}

export function emit<T extends EventType>(
  draft: Draft,
  execution: string,
  type: T,
  payload: EventPayloads[T],
): void {
  draft.out.events.push({ type, execution, payload } as StepEvent);
}

export function record(draft: Draft, execution: string, entry: JournalEntry): void {
  draft.out.journal.push({ execution, entry });
}

export function reply(draft: Draft, ref: number, answer: Answer): void {
  draft.out.replies.push({ ref, answer });
}

/** `pending` gets an entry: whoever owns the session performs it until it is acknowledged. */
export function pend(draft: Draft, pending: SessionContext['pending'][number]): void {
  draft.pending = [...draft.pending.filter(({ id }) => id !== pending.id), pending];
}

export function acknowledge(draft: Draft, id: string): void {
  if (draft.pending.some((pending) => pending.id === id))
    draft.pending = draft.pending.filter((pending) => pending.id !== id);
}

export const attemptPending = (attempt: string): string => `attempt/${attempt}`;
export const callPending = (execution: string, index: number): string => `call/${execution}/${index}`;

export function withCall(
  execution: ExecutionDraft,
  index: number,
  change: (call: OpenCall) => OpenCall,
): void {
  execution.calls = execution.calls.map((call) => (call.index === index ? change(call) : call));
}
