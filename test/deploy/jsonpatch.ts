/** As much of JSON Patch (RFC 6902) as kustomizations here use: add, replace, remove and test. */
import { at, type Fields, same } from './documents.ts';

type Holder = Record<string | number, unknown>;

/** A changed copy. Throws on what kustomize would refuse: a place that is not there, a test that fails, a word it does not know. */
export function applied(document: Fields, operations: readonly unknown[]): Fields {
  const copy = structuredClone(document);
  for (const operation of operations) apply(copy, operation);
  return copy;
}

function apply(document: Fields, operation: unknown): void {
  const { op, path, value, ...others } = operation as Record<string, unknown>;
  const where = `${String(op)} ${String(path)}`;
  if (Object.keys(others).length > 0) throw new Error(`${where}: ${Object.keys(others).join()} is not known`);
  if (typeof path !== 'string' || !path.startsWith('/')) throw new Error(`${where}: is no path`);
  const keys = path.slice(1).split('/');
  const key = keys.pop() ?? '';
  const holder = at(document, ...keys) as Holder | unknown[] | undefined;
  if (typeof holder !== 'object' || holder === null) throw new Error(`${where}: leads nowhere`);
  const there = Object.hasOwn(holder, key);
  if (op === 'add' && Array.isArray(holder)) throw new Error(`${where}: nothing is added to lists here`);
  if (op !== 'add' && !there) throw new Error(`${where}: is not there`);
  if ((op === 'remove') !== (value === undefined)) throw new Error(`${where}: a value too many, or too few`);
  if (op === 'test') {
    if (!same((holder as Holder)[key], value)) throw new Error(`${where}: is another value`);
  } else if (op === 'add' || op === 'replace') (holder as Holder)[key] = value;
  else if (op !== 'remove') throw new Error(`${where}: no such operation`);
  else if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else delete holder[key];
}
