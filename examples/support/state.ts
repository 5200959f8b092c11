/** What a session keeps between its scripts. */
// In a service of your own: from 'enclave-actors'.
import type { SessionRef } from '#enclave';
import { dim, row } from './print.ts';

/** The session's `state`, as its last successful script left it. */
export async function printState(session: SessionRef): Promise<void> {
  const { state } = await session.info();
  row('state', dim(JSON.stringify(state)));
}
