/** What counts for a tenant of one session: its executions, from their admission to their end or the session's departure. */
import type { Output, SessionContext } from '../../actors/sessiondata.ts';
import { DEFAULT_TENANT } from '../protocol.ts';
import type { Admission, Refused } from './admission.ts';

/** For whom that counts which names this tenant, or none. */
export function tenantOf(named: string | undefined): string {
  return named === undefined || named === '' ? DEFAULT_TENANT : named;
}

/** What an execution is called in a broker's admission. */
export function admissionKey(session: string, execution: string): string {
  return `${session}/${execution}`;
}

export interface AdmittedOptions {
  readonly session: string;
  readonly tenant: string;
  readonly admission: Pick<Admission, 'admit' | 'hold' | 'free'>;
  /** What the machine knows now. */
  readonly context: () => SessionContext;
}

export class Admitted {
  readonly #options: AdmittedOptions;

  /** What came with the session is counted. */
  constructor(options: AdmittedOptions) {
    this.#options = options;
    for (const { id } of options.context().executions) this.#hold(id);
  }

  /** Whether a new execution may come in. 'known': it is no new one. */
  admit(execution: string): 'known' | 'admitted' | Refused {
    const { session, tenant, admission, context } = this.#options;
    const { executions, finished, ended } = context();
    const isIt = ({ id }: { readonly id: string }): boolean => id === execution;
    // The machine answers for these, and begins nothing.
    if (ended !== '' || executions.some(isIt) || finished.some(isIt)) return 'known';
    return admission.admit(tenant, admissionKey(session, execution));
  }

  /** It was admitted, and not taken in. */
  dismiss(execution: string): void {
    const { context } = this.#options;
    if (!context().executions.some(({ id }) => id === execution)) this.#free(execution);
  }

  /** A step is done. */
  note({ accepted, ended }: Output): void {
    for (const id of accepted) this.#hold(id);
    for (const { execution } of ended) this.#free(execution.id, true);
  }

  /** The session is not here any more. */
  leave(): void {
    for (const { id } of this.#options.context().executions) this.#free(id);
  }

  #hold(execution: string): void {
    const { session, tenant, admission } = this.#options;
    admission.hold(tenant, admissionKey(session, execution));
  }

  #free(execution: string, ended = false): void {
    const { session, tenant, admission } = this.#options;
    admission.free(tenant, admissionKey(session, execution), ended);
  }
}
