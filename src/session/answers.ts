/** Who waits for the answer to a fact: the machine answers by number, with the step that took the fact in. */
import type { Answer } from '../../actors/sessiondata.ts';

export class Answers {
  readonly #waiting = new Map<number, (answer: Answer | undefined) => void>();
  #refs = 0;

  /** Wait for the answer to a fact of the number that `send` is given. `send` says whether the fact was taken. */
  expect(send: (ref: number) => boolean): Promise<Answer | undefined> {
    return new Promise((resolve) => {
      const ref = ++this.#refs;
      this.#waiting.set(ref, resolve);
      if (send(ref)) return;
      this.#waiting.delete(ref);
      resolve(undefined);
    });
  }

  give(answers: readonly { readonly ref: number; readonly answer: Answer }[]): void {
    for (const { ref, answer } of answers) {
      const resolve = this.#waiting.get(ref);
      this.#waiting.delete(ref);
      resolve?.(answer);
    }
  }

  /** Nobody will answer any more: everybody who waits gets undefined. */
  stop(): void {
    for (const resolve of this.#waiting.values()) resolve(undefined);
    this.#waiting.clear();
  }
}
