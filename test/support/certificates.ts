/** A certificate authority of a test, and what it signs: the commands of SECURITY.md. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { binary } from './install.ts';

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
const AUTHORITY = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'];

export class Certificates {
  readonly #directory: string;

  /** `ca.pem` and `ca.key`, and for `server`, which is this machine, and `client` a certificate and a key each. */
  constructor(directory: string) {
    this.#directory = directory;
    const self = ['-subj', '/CN=enclave-test-ca', '-keyout', 'ca.key', '-out', 'ca.pem'];
    this.#openssl('req', '-x509', ...NEW_KEY, '-days', '2', ...self);
    this.#certify('server', 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n');
    this.#certify('client', 'subjectAltName=DNS:client\nextendedKeyUsage=clientAuth\n');
  }

  file(name: string): string {
    return path.join(this.#directory, name);
  }

  text(name: string): string {
    return readFileSync(this.file(name), 'utf8');
  }

  #certify(name: string, extensions: string): void {
    writeFileSync(this.file(`${name}.ext`), extensions);
    const own = ['-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`];
    this.#openssl('req', ...NEW_KEY, ...own);
    const signed = ['-days', '2', '-extfile', `${name}.ext`, '-out', `${name}.pem`];
    this.#openssl('x509', '-req', '-in', `${name}.csr`, ...AUTHORITY, ...signed);
  }

  #openssl(...args: readonly string[]): void {
    execFileSync(binary('openssl'), args, { cwd: this.#directory, stdio: 'pipe' });
  }
}
