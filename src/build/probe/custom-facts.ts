/**
 * Facts that a node's operator lets programs of their own find out: which licence, which graphics card.
 *
 * A program prints lines: `NAME=VALUE` is a fact, `feature NAME` a feature that derivations may require; empty
 * lines and those that begin with # count for nothing. A fact is a feature as well, as `NAME-VALUE`, where that
 * makes a name. A program that fails tells nothing, so that what it told before is no longer offered.
 */
import { mkdir, mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { removeTree } from '../../files/workers/remove-job.ts'
import { Feature } from '../../wire/names.ts'
import type { BuildEnd, Executor } from '../executor.ts'
import {
  OPERATOR_MS_MAX,
  OPERATOR_OUTPUT_BYTES_MAX,
  runOperatorProgram,
} from '../operator-program.ts'
import { SEARCH_PATH } from '../tool-path.ts'
import { oneLine } from './known.ts'

/** Of all programs together. */
export const CUSTOM_FACTS_MAX = 32
const FACT_VALUE_CHARS_MAX = 256
/** What only the probes may say. */
export const PROBED_FEATURES = ['native', 'kvm', 'secure'] as const

interface CustomFact {
  readonly name: string
  readonly value: string
  /** The program that told it. */
  readonly how: string
}

export interface CustomFacts {
  readonly facts: readonly CustomFact[]
  /** Sorted, no duplicates. */
  readonly features: readonly string[]
  /** What is wrong with the programs, one line each. */
  readonly problems: readonly string[]
}

export const NO_CUSTOM_FACTS: CustomFacts = { facts: [], features: [], problems: [] }

/** What one program told. */
export function parseFacts(path: string, output: string): CustomFacts {
  const facts = new Map<string, CustomFact>()
  const features = new Set<string>()
  const problems: string[] = []
  const wrong = (line: number, what: string): void => {
    problems.push(`facts ${path}: line ${line}: ${what}`)
  }
  for (const [at, raw] of output.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const feature = /^feature\s+(\S+)$/.exec(line)?.[1]
    const [, name, value] = /^([^=\s]+)=(.*)$/.exec(line) ?? []
    const word = feature ?? name
    if (word === undefined) {
      wrong(at + 1, `${JSON.stringify(oneLine(line, 64))} is neither NAME=VALUE nor "feature NAME"`)
    } else if (!Feature.safeParse(word).success) {
      wrong(at + 1, `${JSON.stringify(oneLine(word, 64))}: a name has 1-64 of a-z 0-9 _ . + -`)
    } else if (isProbed(word)) {
      wrong(at + 1, `${word} is found out by the node itself`)
    } else if (feature !== undefined) {
      features.add(feature)
    } else if (facts.size < CUSTOM_FACTS_MAX || facts.has(word)) {
      facts.set(word, { name: word, value: oneLine(value ?? '', FACT_VALUE_CHARS_MAX), how: path })
    } else {
      wrong(at + 1, `${word} is more than the ${CUSTOM_FACTS_MAX} facts that one may tell`)
    }
  }
  for (const { name, value } of facts.values()) {
    const joined = Feature.safeParse(`${name}-${value.toLowerCase()}`)
    if (joined.success) features.add(joined.data)
  }
  return { facts: [...facts.values()], features: [...features].toSorted(), problems }
}

export const isProbed = (feature: string): boolean =>
  PROBED_FEATURES.some((reserved) => reserved === feature)

/** Asks all programs at once: one that hangs makes nobody wait twice. Of facts of one name the first path's holds. */
export async function askFacts(
  executor: Executor,
  options: {
    /** A few. */
    readonly paths: readonly string[]
    /** For the programs' own directories, made when it is not there. */
    readonly directory: string
    readonly signal: AbortSignal
    readonly limitMs?: number
  },
): Promise<CustomFacts> {
  const { paths, directory, signal, limitMs = OPERATOR_MS_MAX } = options
  if (paths.length === 0) return NO_CUSTOM_FACTS
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const own = await mkdtemp(join(directory, 'facts-'))
  try {
    const answers = await Promise.all(
      paths.map(async (path, index): Promise<CustomFacts> => {
        const place = join(own, `${index}`)
        await mkdir(place, { mode: 0o700 })
        const { end, output } = await runOperatorProgram(executor, {
          attempt: `facts${index}`,
          path,
          env: { PATH: SEARCH_PATH, HOME: '/build/home', TMPDIR: '/build/tmp', LC_ALL: 'C' },
          directory: place,
          limitMs,
          signal,
        })
        const problem = problemOf(end, limitMs)
        return problem === ''
          ? parseFacts(path, output)
          : { ...NO_CUSTOM_FACTS, problems: [`facts ${path} ${problem}`] }
      }),
    )
    return merged(answers)
  } finally {
    await removeTree(own)
  }
}

function merged(answers: readonly CustomFacts[]): CustomFacts {
  const facts = new Map<string, CustomFact>()
  for (const fact of answers.flatMap((answer) => answer.facts))
    if (!facts.has(fact.name) && facts.size < CUSTOM_FACTS_MAX) facts.set(fact.name, fact)
  return {
    facts: [...facts.values()],
    features: [...new Set(answers.flatMap(({ features }) => features))].toSorted(),
    problems: answers.flatMap(({ problems }) => problems),
  }
}

function problemOf(end: BuildEnd, limitMs: number): string {
  switch (end.kind) {
    case 'exited':
      return end.code === 0 ? '' : `ended with ${end.code}`
    case 'signalled':
      return `was ended by ${end.signal}`
    case 'limit':
      return end.limit === 'log'
        ? `printed more than ${OPERATOR_OUTPUT_BYTES_MAX} bytes`
        : `did not answer within ${limitMs / 1000} s`
    case 'builder-not-found':
    case 'infrastructure':
      return `cannot be run: ${oneLine(end.message, FACT_VALUE_CHARS_MAX)}`
    case 'cancelled':
      return 'was not waited for'
  }
}
