/**
 * Reports that call tools which nobody is known to have: they wait while providers are asked. A report that is not
 * taken in is not acknowledged, so nothing is lost with what waits here.
 *
 * Invariant:
 *  W1  The reports of one attempt are handed on in the order in which they came; other attempts do not wait.
 */
import type { Report } from '../protocol.ts';

/** Reports of one attempt that wait; those over it are sent again by their runtime. */
const MAX_WAITING = 100;

export interface HoldingOptions {
  /** Resolves when the report can be read; undefined if it can be now. */
  readonly until: (report: Report) => Promise<void> | undefined;
  readonly pass: (report: Report) => void;
}

export class Holding {
  readonly #options: HoldingOptions;
  /** By attempt: what came after the report that is waited for. */
  readonly #waiting = new Map<string, Report[]>();

  constructor(options: HoldingOptions) {
    this.#options = options;
  }

  take(report: Report): void {
    const { until, pass } = this.#options;
    const waiting = this.#waiting.get(report.attempt);
    if (waiting !== undefined) {
      if (waiting.length < MAX_WAITING) waiting.push(report);
      return;
    }
    const known = until(report);
    if (known === undefined) return pass(report);
    this.#waiting.set(report.attempt, []);
    void known.then(() => {
      const after = this.#waiting.get(report.attempt) ?? [];
      this.#waiting.delete(report.attempt);
      pass(report);
      for (const next of after) this.take(next); // W1: the first that must wait again has the others behind it.
    });
  }
}
