import { expect, it } from 'vitest';
import { type Operations, remember, versionOf } from '../../src/store/operations.ts';
import { REMEMBERED_OPERATIONS } from '../../src/store/store.ts';

it('remembers the last operations with their versions, and no others', () => {
  let operations: Operations | undefined;
  expect(versionOf(operations, 1, 'o1')).toBeUndefined();
  // Version 1 is the creation's.
  for (let version = 2; version <= 40; version++) {
    operations = remember(operations, version, `o${version}`);
    for (let old = 0; old <= version + 1; old++)
      expect(versionOf(operations, version, `o${old}`)).toBe(
        old >= 2 && old > version - REMEMBERED_OPERATIONS && old <= version ? old : undefined,
      );
  }
});
