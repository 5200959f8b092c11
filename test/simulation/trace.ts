/** What happened in a run, line by line: the last lines for a reader, the hash of all for comparing runs. */
import { createHash } from 'node:crypto';

const KEPT = 80;
/** Lines hashed together: a call of the hash costs more than the text. */
const CHUNK = 256;

export class Trace {
  readonly #hash = createHash('sha256');
  readonly #last: string[] = [];
  #chunk: string[] = [];
  /** Told of every line, for those who want to see them all. */
  onLine: ((line: string) => void) | undefined;

  add(at: number, who: string, what: string): void {
    const line = `${at} ${who}: ${what}`;
    this.#chunk.push(line);
    if (this.#chunk.length >= CHUNK) this.#flush();
    this.onLine?.(line);
  }

  /** The last lines, oldest first. */
  get lines(): readonly string[] {
    return [...this.#last, ...this.#chunk].slice(-KEPT);
  }

  /** The hash of everything so far. Ends the trace. */
  digest(): string {
    this.#flush();
    return this.#hash.digest('hex').slice(0, 16);
  }

  #flush(): void {
    this.#hash.update(this.#chunk.join('\n'));
    this.#last.push(...this.#chunk);
    this.#last.splice(0, Math.max(0, this.#last.length - KEPT));
    this.#chunk = [];
  }
}
