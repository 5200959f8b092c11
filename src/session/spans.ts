/**
 * The spans of a session's executions at their owner: each lasts from the acceptance, or the take-over, to the committed
 * end. Whoever takes the session over begins another, under the same parent: so an execution stays in its trace.
 */
import type { Bus, TraceHeaders } from '../bus/bus.ts';
import type { CallTool } from '../protocol.ts';
import { canonicalToolName } from '../tools/define.ts';
import { type Attributes, messageAttributes, type OpenSpan, openSpan, tracing } from '../traces.ts';

export interface ExecutionSpansOptions {
  /** Of what is kept for no session, the execution. */
  readonly session: string;
  readonly broker: string | undefined;
  readonly tenant: string | undefined;
  readonly bus: Bus;
  /** Where executions are asked for. */
  readonly subject: () => string;
  /** What the execution was asked for with. */
  readonly asked: (execution: string) => TraceHeaders | undefined;
}

export class ExecutionSpans {
  readonly #options: ExecutionSpansOptions;
  #open: Map<string, OpenSpan> | undefined;

  constructor(options: ExecutionSpansOptions) {
    this.#options = options;
  }

  /** `resumed`: another owner had begun it. */
  begin(execution: string, resumed: boolean): void {
    if (!tracing()) return;
    const { session, broker = '', tenant, bus, subject, asked } = this.#options;
    const span = openSpan({
      name: 'enclave.execution',
      kind: 'server',
      parent: asked(execution),
      attributes: {
        ...(resumed ? {} : messageAttributes(bus, 'process', subject())),
        'enclave.session.id': session,
        'enclave.execution.id': execution,
        'enclave.broker.id': broker,
        'enclave.resumed': resumed,
        ...(tenant === undefined || tenant === '' ? {} : { 'enclave.tenant': tenant }),
      },
    });
    this.#open ??= new Map();
    this.#open.set(execution, span);
  }

  /** For what is asked of others on its behalf. Of an execution that has no span here, what it was asked for with. */
  headers(execution: string): TraceHeaders | undefined {
    return this.#open?.get(execution)?.headers ?? this.#options.asked(execution);
  }

  /** A call of a tool: from its dispatch to its end. Undefined where nobody traces. */
  call({ execution, index, name }: CallTool, subject: string): OpenSpan | undefined {
    if (!tracing()) return undefined;
    const { session, bus } = this.#options;
    return openSpan({
      name: 'enclave.call',
      kind: 'client',
      parent: this.#open?.get(execution) ?? this.#options.asked(execution),
      attributes: {
        ...messageAttributes(bus, 'send', subject),
        'enclave.session.id': session,
        'enclave.execution.id': execution,
        'enclave.call.index': index,
        'enclave.tool.name': canonicalToolName(name) ?? '',
      },
    });
  }

  event(execution: string, name: string, attributes: Attributes): void {
    this.#open?.get(execution)?.event(name, attributes);
  }

  /** Its end is committed. `code`: the error's, or `'OK'`. */
  end(execution: string, outcome: string, code: string): void {
    const span = this.#open?.get(execution);
    if (span === undefined) return;
    this.#open?.delete(execution);
    span.set({ 'enclave.outcome': outcome });
    span.end(code === 'OK' ? undefined : code);
  }

  /** The owner is it no more: others see the executions through. */
  stop(): void {
    for (const span of this.#open?.values() ?? []) {
      span.set({ 'enclave.given_up': true });
      span.end();
    }
    this.#open = undefined;
  }
}
