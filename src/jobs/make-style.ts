/**
 * How the make of an environment is told of a jobserver. A wrong guess is fatal: make 4.3 stops with an
 * internal error when it is told of a FIFO.
 */

/** `fifo`: by path (make 4.4, ninja 1.13, cargo); `descriptors`: two inherited ones; `none`: not at all. */
export type MakeStyle = 'fifo' | 'descriptors' | 'none'

/** What `make --version` gave; undefined where there is no make, and so none that could be confused. */
export function makeStyleOf(version: string | undefined): MakeStyle {
  if (version === undefined) return 'fifo'
  const [, major = '0', minor = '0'] = /^GNU Make (\d+)\.(\d+)/.exec(version) ?? []
  const release = Number(major) * 1000 + Number(minor)
  if (release >= 4004) return 'fifo'
  // Before 4.2 the option had another name; a make that is not GNU's has another meaning for all of it.
  return release >= 4002 ? 'descriptors' : 'none'
}

/** The variables that make, ninja, cargo and gcc -flto=jobserver look at. */
export function jobserverVariables(
  style: MakeStyle,
  at: { readonly path: string; readonly descriptors: readonly [number, number] },
): Record<string, string> {
  if (style === 'none') return {}
  const auth = style === 'fifo' ? `fifo:${at.path}` : at.descriptors.join(',')
  const flags = `-j --jobserver-auth=${auth}`
  return { MAKEFLAGS: flags, CARGO_MAKEFLAGS: flags }
}

/** What somebody set as MAKEFLAGS, without a number of jobs and without a jobserver that is not ours. */
export function withoutJobserver(flags: string): string {
  // Up to `--` are options, behind it variables: `ks -j8 --jobserver-auth=3,4 -- CC=clang`.
  const [options = '', ...variables] = flags.trim().split(/(?=(?:^|\s)--(?:\s|$))/)
  const words = options
    .split(/\s+/)
    .filter((word) => word !== '' && !/^(?:-j\d*|-l[\d.]*|--jobs(?:erver).*)$/.test(word))
    // make writes the letters of its first word without a dash, and no other word may be so.
    .map((word, at) => (at === 0 && /^[A-Za-z]+$/.test(word) ? `-${word}` : word))
  return [...words, ...variables.map((text) => text.trim())].join(' ')
}
