/** Listing sessions (S12): a scan of all keys, for operators. */
import { checkInteger } from '../checks.ts';
import { type SessionPage, StoreError } from '../store.ts';
import type { Keys } from './keys.ts';
import type { Call, Wire } from './wire.ts';

/** Between the node and its own cursor. */
const SEPARATOR = ' ';

/**
 * The masters are scanned in turn, in the order of their addresses. A cursor is a node's own. If a fail-over
 * takes a node away in the middle, nobody can go on from there: UNAVAILABLE.
 */
export async function listSessions(
  wire: Wire,
  keys: Keys,
  call: Call,
  cursor: string,
  limit: number,
): Promise<SessionPage> {
  checkInteger('limit', limit, 1);
  const before = keys.session('').slice(0, -1);
  const pattern = `${before.replace(/[\\*?[\]]/g, '\\$&')}*}`;
  let [address = '', at = '0'] = cursor === '' ? [undefined, '0'] : cursor.split(SEPARATOR);
  const sessions: string[] = [];
  while (sessions.length < limit && wire.hasTime(call)) {
    const addresses = await wire.masters(call);
    if (address === '') [address = ''] = addresses;
    if (!addresses.includes(address))
      throw new StoreError('UNAVAILABLE', call.operation, 'the Cluster has changed: list from the beginning');
    const [next, found] = (await wire.readAt(call, address, 'scan', [
      at,
      'MATCH',
      pattern,
      'COUNT',
      limit,
    ])) as [string, string[]];
    for (const key of found) sessions.push(key.slice(before.length, -1));
    at = next;
    if (at !== '0') continue;
    const following = addresses[addresses.indexOf(address) + 1];
    if (following === undefined) return { sessions, cursor: '' };
    address = following;
  }
  return { sessions, cursor: `${address}${SEPARATOR}${at}` };
}
