/** Tools of the soak's brokers: those of the pods that a killed broker leaves in no doubt. */
import tools from '../support/podtools.ts';

/** The call of an unsafe tool dies with its provider, and nobody knows what became of it: a service has it. */
export const OF_THE_SERVICE = ['ledger:once', 'slow:look'];

export default tools.filter(({ name }) => !OF_THE_SERVICE.includes(name));
