/** An invariant that did not hold. */
export type Invariant = 'I1' | 'I2' | 'I3' | 'I4' | 'I5';

export class Violation extends Error {
  override readonly name = 'Violation';
  readonly invariant: Invariant;

  constructor(invariant: Invariant, what: string) {
    super(`${invariant}: ${what}`);
    this.invariant = invariant;
  }
}
