/** A session moves from one broker to another while its script runs. The script never stops. */
// In a service of your own: from 'enclave-actors'.
import { createSystem } from '#enclave';
import { migrateUnderway } from './support/handover.ts';
import { heading } from './support/print.ts';

await using system = await createSystem({ brokers: 2 });
const session = await system.spawnSession();

heading('A session is handed over under its script');
await migrateUnderway(session);
