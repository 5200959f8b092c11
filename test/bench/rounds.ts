/**
 * Interleaved rounds: A B A B …, never all of A and then all of B, so that whatever else the machine does in
 * the meantime falls on both.
 */

/** Measure every contender once per round, in the map's order; each one's results are in round order. */
export async function interleave<K, C, T>(
  contenders: ReadonlyMap<K, C>,
  rounds: number,
  measure: (contender: C) => Promise<T>,
): Promise<ReadonlyMap<K, readonly T[]>> {
  const results = new Map<K, T[]>();
  for (let round = 0; round < rounds; round++) {
    for (const [name, contender] of contenders) {
      const values = results.get(name) ?? [];
      results.set(name, values);
      values.push(await measure(contender));
    }
  }
  return results;
}
