/** The spans of an attempt: one for all of it, and one for each worker that it is in. Workers make none: they run strangers' code. */
import type { AttemptEnd } from '../../actors/attempt.ts';
import type { TraceHeaders } from '../bus/bus.ts';
import type { Offer } from '../protocol.ts';
import { type Attributes, type OpenSpan, openSpan } from '../traces.ts';

export class AttemptSpans {
  readonly #attempt: OpenSpan;
  #worker: OpenSpan | undefined;
  #over = false;

  constructor(offer: Offer, parent: TraceHeaders | undefined, runtime: string, message: Attributes) {
    this.#attempt = openSpan({
      name: 'enclave.attempt',
      kind: 'server',
      parent,
      attributes: {
        ...message,
        'enclave.session.id': offer.session,
        'enclave.execution.id': offer.execution,
        'enclave.attempt.id': offer.attempt,
        'enclave.attempt.replay': offer.replay,
        'enclave.runtime.id': runtime,
      },
    });
  }

  /** It is in a worker; it has left the one before it. */
  seated(worker: string): void {
    this.#worker?.end();
    this.#worker = openSpan({
      name: 'enclave.worker',
      kind: 'internal',
      parent: this.#attempt,
      attributes: { 'enclave.worker.id': worker },
    });
  }

  /** Only the first call counts. An attempt that its owner stopped has not failed. */
  ended(end: AttemptEnd): void {
    if (this.#over) return;
    this.#over = true;
    const code = codeOf(end);
    this.#worker?.end(code);
    this.#attempt.set({ 'enclave.attempt.end': end.kind });
    this.#attempt.end(code);
  }
}

function codeOf(end: AttemptEnd): string | undefined {
  switch (end.kind) {
    case 'failed':
    case 'refused':
      return end.code;
    case 'lost':
      return 'LOST';
    default:
      return undefined;
  }
}
