/**
 * Two builds of one thing, entry by entry: which paths differ, in what, and in small files from which byte on.
 * Trees that are alike are not looked into.
 */
import { compareNames, sameEntry, type Entry, type Tree } from '../wire/tree.ts'

/** Differing paths that are told; the others are counted. */
export const DIFFERENCES_SHOWN_MAX = 20
/** Differing paths that are counted; there may be more. */
const DIFFERENCES_MAX = 100_000
/** Files up to this size are compared byte by byte. */
const BYTES_COMPARED_MAX = 4 * 1024 * 1024
/** Bytes shown of each file, from the first that differs on. */
const BYTES_SHOWN = 16

export type Outputs = Readonly<Record<string, Entry>>

export interface Difference {
  readonly output: string
  /** Below the output; empty for the output itself. */
  readonly path: string
  /** `kind`: a file, a directory, a link. `mode`: whether it may be executed. */
  readonly what: 'only-first' | 'only-second' | 'kind' | 'bytes' | 'mode' | 'target'
  readonly first: Entry | undefined
  readonly second: Entry | undefined
  /** Where the bytes of two small files begin to differ, and how each goes on, in hex. */
  readonly bytes?: {
    readonly offset: number
    readonly first: string
    readonly second: string
  }
}

export interface Comparison {
  /** The first DIFFERENCES_SHOWN_MAX, by output and path. */
  readonly differences: readonly Difference[]
  readonly count: number
}

export interface Reader {
  /** The listing of a directory. */
  tree(entry: Extract<Entry, { kind: 'dir' }>): Promise<Tree>
  /** All bytes of a file, at most BYTES_COMPARED_MAX of them. */
  bytes(entry: Extract<Entry, { kind: 'file' }>): Promise<Uint8Array>
}

interface Pair {
  readonly path: string
  readonly first: Entry | undefined
  readonly second: Entry | undefined
}

export async function compareOutputs(
  reader: Reader,
  first: Outputs,
  second: Outputs,
): Promise<Comparison> {
  const differences: Difference[] = []
  let count = 0
  const names = [...new Set([...Object.keys(first), ...Object.keys(second)])]
  for (const output of names.toSorted(compareNames)) {
    // Last first, so that paths come in their order.
    const open: Pair[] = [{ path: '', first: first[output], second: second[output] }]
    for (let pair = open.pop(); pair !== undefined; pair = open.pop()) {
      const what = differenceOf(pair)
      if (what === undefined) continue
      if (what === 'inside') {
        open.push(...(await below(reader, pair)).toReversed())
        continue
      }
      count += 1
      if (count >= DIFFERENCES_MAX) return { differences, count }
      if (differences.length >= DIFFERENCES_SHOWN_MAX) continue
      const bytes = what === 'bytes' ? await firstBytes(reader, pair) : undefined
      differences.push({ output, what, ...pair, ...(bytes === undefined ? {} : { bytes }) })
    }
  }
  return { differences, count }
}

/** Undefined for entries that are alike; `inside` for two directories. */
function differenceOf({ first, second }: Pair): Difference['what'] | 'inside' | undefined {
  if (first === undefined) return second === undefined ? undefined : 'only-second'
  if (second === undefined) return 'only-first'
  if (sameEntry(first, second)) return undefined
  switch (first.kind) {
    case 'dir':
      return second.kind === 'dir' ? 'inside' : 'kind'
    case 'symlink':
      return second.kind === 'symlink' ? 'target' : 'kind'
    case 'file':
      if (second.kind !== 'file') return 'kind'
      return first.digest === second.digest ? 'mode' : 'bytes'
  }
}

/** What two directories hold, by name. */
async function below(reader: Reader, { path, first, second }: Pair): Promise<Pair[]> {
  if (first?.kind !== 'dir' || second?.kind !== 'dir') return []
  const [a, b] = await Promise.all([reader.tree(first), reader.tree(second)])
  const of = (tree: Tree): Map<string, Entry> =>
    new Map(tree.map(({ name, entry }) => [name, entry]))
  const [inFirst, inSecond] = [of(a), of(b)]
  const names = [...new Set([...inFirst.keys(), ...inSecond.keys()])].toSorted(compareNames)
  return names.map((name) => ({
    path: path === '' ? name : `${path}/${name}`,
    first: inFirst.get(name),
    second: inSecond.get(name),
  }))
}

async function firstBytes(
  reader: Reader,
  { first, second }: Pair,
): Promise<Difference['bytes'] | undefined> {
  if (first?.kind !== 'file' || second?.kind !== 'file') return undefined
  if (Math.max(first.size, second.size) > BYTES_COMPARED_MAX) return undefined
  const [a, b] = await Promise.all([reader.bytes(first), reader.bytes(second)])
  const length = Math.min(a.byteLength, b.byteLength)
  let offset = 0
  while (offset < length && a[offset] === b[offset]) offset += 1
  const shown = (bytes: Uint8Array): string =>
    Buffer.from(bytes.subarray(offset, offset + BYTES_SHOWN)).toString('hex')
  return { offset, first: shown(a), second: shown(b) }
}
