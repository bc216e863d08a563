/** After a request whose outputs were not reproducible: the first paths that differ, without another command. */
import { MeshError } from '../base/errors.ts'
import type { Failure } from '../wire/api.ts'
import { JobDiff } from '../wire/comparisons.ts'
import type { Client } from './client.ts'
import { compareDiff, differingPair } from './commands/diff.ts'
import { differenceLines, placeOf } from './diff-view.ts'

/** Failures that are looked into, and paths told of each; `mesh jobs diff` tells more. */
const FAILURES_MAX = 3
const PATHS_MAX = 3

export interface ToldDifferences {
  /** Of the failed job. */
  readonly job: string
  readonly paths: readonly string[]
  /** For people. */
  readonly lines: readonly string[]
}

/** What cannot be read now is told as such: the request has failed in any case. */
export async function differencesOf(
  client: Client,
  failures: readonly Failure[],
): Promise<ToldDifferences[]> {
  const told: ToldDifferences[] = []
  const differing = failures.filter(({ code }) => code === 'MESH0405').slice(0, FAILURES_MAX)
  for (const { job, name } of differing) {
    try {
      const answer = await client.json(JobDiff, `/api/jobs/${job}/diff`)
      const pair = differingPair(answer)
      if (pair === undefined) continue
      const { differences, count } = await compareDiff(client, pair)
      const shown = differences.slice(0, PATHS_MAX)
      const nodes = { first: pair.first.node, second: pair.second.node }
      const hidden = count - shown.length
      told.push({
        job,
        paths: shown.map(placeOf),
        lines: [
          `${name}: ${nodes.first} and ${nodes.second} differ in`,
          ...shown.flatMap((difference) => differenceLines(difference, nodes)),
          ...(hidden > 0 ? [`  and ${hidden} more: mesh jobs diff ${job}`] : []),
        ],
      })
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      told.push({ job, paths: [], lines: [`${name}: not compared now: ${error.message}`] })
    }
  }
  return told
}
