/**
 * Holds what the processes do to what was committed.
 *
 * While a run goes on:
 *  - I3, I4: what owners send: no effect, no event and no delivery without its commit, nothing after the lease's end;
 *  - I3: which handlers begin, and how often;
 *  - I2, I5: what clients are told.
 * At the end of each execution: the program is run again from nothing with the deliveries that were committed, and
 * must have made the same calls, the same output and the same value (I4, I5).
 */
import type { ScriptItem } from '../../actors/attempt.ts';
import type { ExecutionEvent } from '../../actors/events.ts';
import type {
  AckReports,
  CallTool,
  ProviderCommand,
  ResultTold,
  RuntimeCommand,
} from '../../src/protocol.ts';
import type { ExecutionResult } from '../../src/result.ts';
import type { AttemptLedger, ExecutionLedger, Ledger, SessionLedger } from './ledger.ts';
import type { Process } from './process.ts';
import { type Run, runProgram } from './program.ts';
import type { Start, ToolWorld } from './tools.ts';
import { Violation } from './violation.ts';

/** Owners without progress that an execution may see, and crashes alone, before it is given up. */
const MAX_ACTIVATIONS = 10;
const QUARANTINE_AFTER = 3;

/** Codes of an execution that found no place to run. */
const UNPLACED = ['NO_RUNTIME', 'OVERLOADED', 'CLOSED', 'ENGINE_MISMATCH'];

export interface CheckerOptions {
  readonly ledger: Ledger;
  readonly tools: ToolWorld;
  readonly now: () => number;
  /** Whether any message was lost or held up at that time or later. */
  readonly disturbedSince: (at: number) => boolean;
  /** Attempts whose worker died with nothing else aboard. */
  readonly lostAlone: ReadonlyMap<string, number>;
  /** What clients asked for. */
  readonly cancelled: ReadonlySet<string>;
  readonly closed: ReadonlySet<string>;
}

export class Checker {
  readonly #options: CheckerOptions;
  /** Keys of calls that were sent to a provider. */
  readonly #dispatched = new Set<string>();

  constructor(options: CheckerOptions) {
    this.#options = options;
  }

  // ---- what owners send ----------------------------------------------------------------------------------

  sent(process: Process, subject: string, body: object): void {
    if (process.kind !== 'broker') return;
    const [, , role, name, verb] = subject.split('.');
    if (role === 'tool') this.#sentCall(process, body as CallTool);
    else if (role === 'runtime' && verb === 'cmd')
      this.#sentToRuntime(process, body as RuntimeCommand | AckReports);
    else if (role === 'provider' && verb === 'cmd') this.#sentToProvider(process, body as ProviderCommand);
    else if (role === 'client' && verb === 'result') this.#sentResult(process, body as ResultTold);
    else if (role === 'session' && verb === 'event')
      this.#sentEvent(process, name ?? '', body as ExecutionEvent);
  }

  #sentCall(process: Process, { key, session, execution: id, index, epoch, name, t }: CallTool): void {
    this.#mustHold(process, `sent the call ${key}`);
    this.#dispatched.add(`${session}/${id}`);
    const { ledger } = this.#options;
    const execution = ledger.execution(session, id);
    if (execution?.delivered.has(index) === true)
      throw new Violation('I3', `${process.id} dispatched ${key} after its end was committed`);
    const owned = ledger.session(session)?.epoch;
    if (owned !== epoch)
      throw new Violation('I3', `${process.id} dispatched ${key} in epoch ${epoch} during epoch ${owned}`);
    // A call of a `read` tool may be sent before it is committed.
    if (execution?.entries[index] === undefined && name !== 'data:read')
      throw new Violation('I3', `${process.id} sent "${t}" of ${key} before it was committed`);
  }

  #sentToRuntime(process: Process, command: RuntimeCommand | AckReports): void {
    this.#mustHold(process, `sent "${command.t}" to a runtime`);
    const { ledger } = this.#options;
    if (command.t === 'acks') {
      for (const [id, , ack] of command.acks) this.#checkAck(process, ack, ledger.attempts.get(id));
      return;
    }
    const attempt = ledger.attempts.get(command.attempt);
    switch (command.t) {
      case 'offer':
        if (attempt === undefined)
          throw new Violation(
            'I3',
            `${process.id} offered an attempt of ${command.execution} before it was committed`,
          );
        if (ledger.session(command.session)?.epoch !== command.epoch)
          throw new Violation(
            'I3',
            `${process.id} offered an attempt of ${command.execution} in a past epoch`,
          );
        return;
      case 'deliver':
        this.#checkDeliveries(process, command, attempt);
        return this.#checkAck(process, command.ack, attempt);
    }
  }

  #checkDeliveries(
    process: Process,
    { from, deliveries }: Extract<RuntimeCommand, { t: 'deliver' }>,
    attempt: AttemptLedger | undefined,
  ): void {
    for (const [offset, delivery] of deliveries.entries()) {
      const committed = attempt?.execution.deliveries[from - 1 + offset];
      if (JSON.stringify(committed) !== JSON.stringify(delivery))
        throw new Violation(
          'I4',
          `${process.id} handed over ${JSON.stringify(delivery)} as number ${from + offset}; committed: ${JSON.stringify(committed)}`,
        );
    }
  }

  /** What is acknowledged is never told again. */
  #checkAck(process: Process, ack: number, attempt: AttemptLedger | undefined): void {
    if (attempt?.present === true && ack > attempt.reports)
      throw new Violation('I5', `${process.id} acknowledged report ${ack}; committed are ${attempt.reports}`);
  }

  #sentToProvider(process: Process, command: ProviderCommand): void {
    if (command.t !== 'ack') return;
    const { ledger } = this.#options;
    for (const key of command.keys) {
      const [session = '', id = '', index] = key.split('/');
      const execution = ledger.execution(session, id);
      const entry = execution?.entries[Number(index)];
      // A call of a `read` tool may end before it is committed, and is made again then. What a reconciliation answered
      // may leave a call open.
      if (execution === undefined || entry === undefined || entry[2] === 'bank:pay') continue;
      if (!execution.ended && !execution.delivered.has(Number(index)))
        throw new Violation('I5', `${process.id} acknowledged the end of ${key}, which is not committed`);
    }
  }

  #sentResult(process: Process, { session, execution, result }: ResultTold): void {
    this.#mustHold(process, `told the result of ${execution}`);
    this.told(session, execution, JSON.parse(result) as ExecutionResult);
  }

  #sentEvent(process: Process, session: string, event: ExecutionEvent): void {
    this.#mustHold(process, `published event ${event.seq}`);
    const committed = this.#options.ledger.session(session)?.events[event.seq - 1];
    if (committed === undefined)
      throw new Violation(
        'I4',
        `${process.id} published event ${event.seq} of ${session}, which was never committed`,
      );
    if (committed !== JSON.stringify(event))
      throw new Violation(
        'I4',
        `${process.id} published another event ${event.seq} of ${session} than was committed`,
      );
  }

  /** An owner acts only while its lease lasts, by the store's clock. */
  #mustHold(process: Process, what: string): void {
    const { ledger, now } = this.#options;
    if (!ledger.leaseLives(process.id, now()))
      throw new Violation('I3', `${process.id} ${what} after the end of its lease`);
  }

  // ---- handlers ------------------------------------------------------------------------------------------

  started(key: string, start: Start): void {
    const { tools, disturbedSince } = this.#options;
    const before = tools.starts.get(key) ?? [];
    const last = before.at(-1);
    if (last === undefined) return;
    const allowed = 1 + (tools.denied.get(key) ?? 0);
    if (start.tool === 'mail:send' || (start.tool === 'bank:pay' && before.length >= allowed))
      throw new Violation(
        'I3',
        `the handler of ${key} (${start.tool}) began for the ${before.length + 1}. time`,
      );
    if (start.tool === 'data:read') return;
    const { process } = last;
    const lost = !process.alive || process.wasPaused || disturbedSince(last.at);
    if (!lost)
      throw new Violation(
        'I3',
        `the handler of ${key} (${start.tool}) began again, and its provider ${process.id} was never lost`,
      );
  }

  // ---- executions that ended -----------------------------------------------------------------------------

  ended(execution: ExecutionLedger, session: SessionLedger): void {
    const what = `${session.id}/${execution.id}`;
    const final = execution.events.at(-1);
    if (final?.type !== 'final') throw new Violation('I2', `${what} ended without a final event`);
    const result =
      execution.result === undefined ? undefined : (JSON.parse(execution.result) as ExecutionResult);
    if (result !== undefined && result.success !== final.payload.ok)
      throw new Violation('I2', `${what}: its result and its final event disagree`);
    this.#checkDoubts(execution, what);
    const run = this.#rerun(execution, what);
    const through = run !== undefined && (final.payload.ok || final.payload.error?.code === 'SCRIPT_ERROR');
    if (run !== undefined) compareItems(execution, run, through, what);
    if (final.payload.ok) return this.#checkValue(execution, run, final.payload.result, what);
    this.#checkFailure(execution, session, run, result, what);
  }

  /** The same program, from nothing, with what was committed; undefined if it never started. */
  #rerun(execution: ExecutionLedger, what: string): Run | undefined {
    const { start, base, source, input, seed, deliveries } = execution;
    if (start === undefined) return undefined;
    // A result that was forgotten at once says nothing about its base.
    const state = base ?? start.states[0] ?? '{}';
    if (base !== undefined && !start.states.includes(base))
      throw new Violation(
        'I5',
        `${what} began with state ${base}; the session's was ${start.states.join(' or ')}`,
      );
    return runProgram({ source, input, state, seed, startTime: start.time }, deliveries);
  }

  #checkValue(execution: ExecutionLedger, run: Run | undefined, value: unknown, what: string): void {
    if (run?.end?.kind !== 'returned')
      throw new Violation(
        'I5',
        `${what} returned; with the same deliveries its program ends as ${JSON.stringify(run?.end)}`,
      );
    if (JSON.stringify(value) !== run.end.json)
      throw new Violation('I5', `${what} returned ${JSON.stringify(value)} instead of ${run.end.json}`);
    if (execution.base !== undefined && execution.state !== 'unclear' && run.end.state !== execution.state)
      throw new Violation('I5', `${what} left the state ${execution.state} instead of ${run.end.state}`);
  }

  #checkFailure(
    execution: ExecutionLedger,
    session: SessionLedger,
    run: Run | undefined,
    result: ExecutionResult | undefined,
    what: string,
  ): void {
    if (result === undefined || result.success) return;
    const { code, message, outcome } = result.error;
    const key = `${session.id}/${execution.id}`;
    if (outcome === 'not_started' && this.#dispatched.has(key))
      throw new Violation(
        'I2',
        `${what} is said not to have started (${code}), and calls of it were dispatched`,
      );
    if (run?.end?.kind === 'failed' && run.end.code === code && run.end.message === message) return;
    if (!this.#isJustified(code, execution, session)) {
      const expected = JSON.stringify(run?.end);
      throw new Violation(
        code === 'NONDETERMINISTIC_REPLAY' ? 'I4' : 'I5',
        `${what} ended as ${code} (${message}), and nothing justifies that; its program ends as ${expected}`,
      );
    }
  }

  #isJustified(code: string, execution: ExecutionLedger, session: SessionLedger): boolean {
    const { cancelled, closed, lostAlone } = this.#options;
    switch (code) {
      case 'CANCELLED':
        return cancelled.has(`${session.id}/${execution.id}`);
      case 'CLOSED':
        return closed.has(session.id);
      case 'QUARANTINED': {
        let crashes = 0;
        for (const attempt of execution.attempts) crashes += lostAlone.get(attempt) ?? 0;
        return crashes >= QUARANTINE_AFTER || session.maxActivations >= MAX_ACTIVATIONS;
      }
      case 'STATE_CONFLICT':
        return execution.start?.states.some((state) => state !== session.state) === true;
      default:
        return UNPLACED.includes(code) && execution.entries.length === 0;
    }
  }

  /** OUTCOME_UNKNOWN is for calls of `unsafe` tools whose provider was really lost. */
  #checkDoubts({ session, id, entries, deliveries }: ExecutionLedger, what: string): void {
    const { tools, disturbedSince } = this.#options;
    for (const [index, code] of deliveries) {
      if (code !== 'OUTCOME_UNKNOWN') continue;
      const entry = entries[index];
      if (entry?.[0] !== 'c' || entry[4] !== 'unsafe')
        throw new Violation(
          'I5',
          `${what}: the end of ${index} is in doubt, and its tool may be called again`,
        );
      const start = tools.starts.get(`${session}/${id}/${index}`)?.at(-1);
      if (start === undefined || !start.process.alive || start.process.wasPaused) continue;
      if (!disturbedSince(start.at))
        throw new Violation(
          'I5',
          `${what}: the end of ${index} is in doubt, and its provider ${start.process.id} was never lost`,
        );
    }
  }

  // ---- what clients are told -----------------------------------------------------------------------------

  acknowledged(session: string, id: string): void {
    if (this.#options.ledger.execution(session, id) === undefined)
      throw new Violation('I2', `${session}/${id} was acknowledged, and was never committed`);
  }

  told(session: string, id: string, result: ExecutionResult): void {
    const execution = this.#options.ledger.execution(session, id);
    const known = execution?.result;
    if (known !== undefined && JSON.stringify(JSON.parse(known)) === JSON.stringify(result)) return;
    // It may have been forgotten in the step that ended it.
    if (execution?.ended === true && known === undefined) return;
    throw new Violation(
      'I2',
      `a client was told a result of ${session}/${id} that was never committed: ${JSON.stringify(result)}; committed: ${known}`,
    );
  }

  // ---- the end of a run ----------------------------------------------------------------------------------

  finish(): void {
    for (const session of this.#options.ledger.sessions.values()) {
      for (const { id, ended } of session.executions.values()) {
        if (!ended) throw new Violation('I5', `${session.id}/${id} was accepted and has not ended`);
      }
    }
  }
}

/** Calls, sleeps, output and what was handed over, as the program does them, against what was committed. */
function compareItems(execution: ExecutionLedger, run: Run, through: boolean, what: string): void {
  const made = run.items.filter((item) => item.kind === 'call' || item.kind === 'sleep').map(entryText);
  const journaled = execution.entries.map((entry) =>
    entry[0] === 'c' ? `${entry[1]} ${entry[2]} ${entry[3]}` : `${entry[1]} ${entry[2]}`,
  );
  comparePrefix('I4', `${what}: calls`, journaled, made, through);
  const printed = run.items.flatMap((item) => (item.kind === 'output' ? [`${item.level} ${item.text}`] : []));
  const told = execution.events.flatMap((event) => {
    if (event.type === 'stdout') return [` ${event.payload.chunk}`];
    return event.type === 'log' ? [`${event.payload.level} ${event.payload.message}`] : [];
  });
  comparePrefix('I4', `${what}: output`, told, printed, through);
  const called = execution.events.flatMap((event) =>
    event.type === 'tool_call' ? [event.payload.callId] : [],
  );
  const calls = run.items.flatMap((item) => (item.kind === 'call' ? [`${execution.id}/${item.index}`] : []));
  comparePrefix('I4', `${what}: tool_call events`, called, calls, through);
  const handed = execution.events.flatMap((event) =>
    event.type === 'tool_result_applied' ? [event.payload.callId] : [],
  );
  const applied = run.items.flatMap((item) =>
    item.kind === 'applied' && execution.entries[item.index]?.[0] === 'c'
      ? [`${execution.id}/${item.index}`]
      : [],
  );
  comparePrefix('I4', `${what}: tool_result_applied events`, handed, applied, through);
}

function comparePrefix(
  invariant: 'I4',
  what: string,
  is: readonly string[],
  must: readonly string[],
  whole: boolean,
): void {
  for (const [index, text] of is.entries()) {
    if (text !== must[index])
      throw new Violation(
        invariant,
        `${what}: number ${index} is ${text}; the program makes ${must[index] ?? 'none'}`,
      );
  }
  if (whole && is.length < must.length)
    throw new Violation(invariant, `${what}: there are ${is.length}; the program makes ${must.length}`);
}

function entryText(item: ScriptItem): string {
  if (item.kind === 'call') return `${item.index} ${item.name} ${item.json}`;
  return item.kind === 'sleep' ? `${item.index} ${item.ms}` : '';
}
