/**
 * What the guest's web globals need of the host: one function, text in and text out.
 *
 * The object is made inside the isolate, before the V8 startup snapshot, with `url` undefined; the host fills
 * `url` in once the snapshot is loaded. It is held by closures only, so that no script can reach it.
 */

/** The host's answers to the guest's questions. */
export interface WebHost {
  /**
   * Parse a URL or set a part of one: JSON of a {@link UrlRequest} in, JSON of a {@link UrlAnswer} out. Never
   * throws. Undefined until the V8 startup snapshot is loaded: until then every URL is invalid.
   */
  url: ((request: string) => string) | undefined;
}

/** Parts of a URL that can be set. */
export type UrlKey =
  | 'href'
  | 'protocol'
  | 'username'
  | 'password'
  | 'host'
  | 'hostname'
  | 'port'
  | 'pathname'
  | 'search'
  | 'hash';

/** The question: parse `href` against `base`, or set `key` of the URL `href` to `value`. At most 64 KiB as JSON. */
export type UrlRequest =
  | { readonly op: 'parse'; readonly href: string; readonly base?: string }
  | { readonly op: 'set'; readonly href: string; readonly key: UrlKey; readonly value: string };

/** Every part of a URL, as the getters of the platform's `URL` return them. */
export type UrlParts = { readonly [K in UrlKey | 'origin']: string };

/** The answer: the parts of the URL, or that there is no such URL. */
export type UrlAnswer = ({ readonly ok: true } & UrlParts) | { readonly ok: false };
