/** Listing sessions (S12): a scan of all keys, for operators. */
import { hash } from 'node:crypto';
import { checkInteger } from '../checks.ts';
import { type SessionPage, StoreError } from '../store.ts';
import type { Keys } from './keys.ts';
import type { Call, Wire } from './wire.ts';

/** Between the parts of a cursor. */
const SEPARATOR = ' ';

/**
 * The masters are scanned in turn, in the order of their addresses. A cursor says which masters there were, at
 * which of them the listing is, and that one's own cursor. After a fail-over there are others, in another order,
 * and their cursors are others, too; so nobody can go on from there: UNAVAILABLE.
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
  let [masters = '', address = '', at = '0'] = cursor === '' ? [] : cursor.split(SEPARATOR);
  const sessions: string[] = [];
  while (sessions.length < limit && wire.hasTime(call)) {
    const addresses = await wire.masters(call);
    const present = hash('sha1', addresses.join(), 'base64url');
    if (masters === '') [masters, address = ''] = [present, addresses[0]];
    if (masters !== present || !addresses.includes(address))
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
  return { sessions, cursor: [masters, address, at].join(SEPARATOR) };
}
