/** Label values that come from outside: the first so many names are kept, all others share one. */
export class Bounded {
  readonly #max: number;
  readonly #other: string;
  readonly #known = new Set<string>();

  /** At most `max` names and `other`. */
  constructor(max: number, other: string) {
    this.#max = max;
    this.#other = other;
  }

  of(name: string): string {
    if (this.#known.has(name)) return name;
    if (this.#known.size >= this.#max) return this.#other;
    this.#known.add(name);
    return name;
  }
}
