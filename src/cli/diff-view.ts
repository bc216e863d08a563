/** What `mesh jobs diff` prints: pure functions from the comparison to lines. */
import { formatSize, plural } from '../base/units.ts'
import type { JobDiff } from '../wire/comparisons.ts'
import type { Comparison, Difference } from './compare-outputs.ts'
import { printableLine } from './text/style.ts'

export interface ComparedNodes {
  readonly first: string
  readonly second: string
}

const FOUND: Readonly<Record<NonNullable<JobDiff['found']>, string>> = {
  verify: 'it was to be built alike by several nodes',
  late: 'a second result came late',
  rebuilt: 'it was built again when its output was lost',
  audit: 'an audit built it again',
  other: 'it was built more than once',
}

export function agreeLines({ name, job, votes }: JobDiff): string[] {
  const nodes = votes.map(({ node }) => printableLine(node)).join(', ')
  return [`${printableLine(name)} (${job}): the outputs of ${nodes} are equal`]
}

/** One of the two has no outputs to compare. */
export function failedLines({ name, job, votes }: JobDiff): string[] {
  return [
    `${printableLine(name)} (${job}): it does not end alike everywhere`,
    ...votes.map(({ node, error, n }) => {
      const log = n === null ? '' : `  mesh logs ${job} --attempt ${n}`
      return `  ${printableLine(node)}  ${error === null ? 'built it' : `failed: ${printableLine(error)}`}${log}`
    }),
  ]
}

export function differLines(
  { name, job, found }: JobDiff,
  nodes: ComparedNodes,
  { differences, count }: Comparison,
): string[] {
  const why = found === null ? '' : ` (${FOUND[found]})`
  const lines = [
    `${printableLine(name)} (${job}): ${printableLine(nodes.first)} and ${printableLine(nodes.second)} made different outputs${why}`,
    ...differences.flatMap((difference) => differenceLines(difference, nodes)),
  ]
  const hidden = count - differences.length
  return hidden > 0 ? [...lines, `and ${plural(hidden, 'more path')}`] : lines
}

/** Where it is: the output, and the path in it. */
export const placeOf = ({ output, path }: Difference): string =>
  printableLine(path === '' ? output : `${output}/${path}`)

export function differenceLines(difference: Difference, nodes: ComparedNodes): string[] {
  const place = `  ${placeOf(difference)}: `
  const { what, first, second, bytes } = difference
  switch (what) {
    case 'only-first':
      return [`${place}only on ${printableLine(nodes.first)}`]
    case 'only-second':
      return [`${place}only on ${printableLine(nodes.second)}`]
    case 'kind':
      return [
        `${place}a ${first?.kind} on ${printableLine(nodes.first)}, a ${second?.kind} on ${printableLine(nodes.second)}`,
      ]
    case 'mode': {
      const isFirst = first?.kind === 'file' && first.executable
      return [`${place}executable on ${printableLine(isFirst ? nodes.first : nodes.second)} only`]
    }
    case 'target':
      return [
        `${place}links to ${targetOf(first)} on ${printableLine(nodes.first)}, to ${targetOf(second)} on ${printableLine(nodes.second)}`,
      ]
    case 'bytes': {
      const [a, b] = [sizeOf(first), sizeOf(second)]
      const sizes = a === b ? a : `${a} and ${b}`
      if (bytes === undefined) return [`${place}other bytes (${sizes})`]
      const width = Math.max(nodes.first.length, nodes.second.length)
      return [
        `${place}differs from byte ${bytes.offset} on (${sizes})`,
        `    ${printableLine(nodes.first).padEnd(width)}  ${hexText(bytes.first)}`,
        `    ${printableLine(nodes.second).padEnd(width)}  ${hexText(bytes.second)}`,
      ]
    }
  }
}

const targetOf = (entry: Difference['first']): string =>
  entry?.kind === 'symlink' ? JSON.stringify(printableLine(entry.target)) : ''
const sizeOf = (entry: Difference['first']): string =>
  entry?.kind === 'file' ? formatSize(entry.size) : ''

/** Bytes as a hex dump shows them, with what of them can be read. */
function hexText(hex: string): string {
  if (hex === '') return '(its end)'
  const bytes = Buffer.from(hex, 'hex')
  const readable = [...bytes].map((byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.',
  )
  return `${hex.replaceAll(/(..)(?=.)/g, '$1 ')}  ${readable.join('')}`
}
