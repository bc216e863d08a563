/** `mesh diff` and `mesh jobs diff`: the builds of one job that were compared, and where they differ. */
import { EXIT, MeshError } from '../../base/errors.ts'
import { Hasher } from '../../wire/digest.ts'
import { JobDiff } from '../../wire/comparisons.ts'
import type { Entry } from '../../wire/tree.ts'
import { openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import {
  compareOutputs,
  type Comparison,
  type Difference,
  type Outputs,
  type Reader,
} from '../compare-outputs.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { agreeLines, differLines, failedLines } from '../diff-view.ts'
import { resolveJob } from '../resolve-job.ts'
import { entryCid, readTree } from './objects.ts'

export async function diff(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const answer = await fetchDiff(client, args.operand(0))
  const isJson = args.flag('json')
  if (answer.agree) {
    if (isJson) await printJson(context.stdout, diffJson(answer, undefined))
    else await printLines(context.stdout, agreeLines(answer))
    return EXIT.ok
  }
  const pair = differingPair(answer)
  if (pair === undefined) {
    if (isJson) await printJson(context.stdout, diffJson(answer, undefined))
    else await printLines(context.stdout, failedLines(answer))
    return EXIT.notReproducible
  }
  const comparison = await compareDiff(client, pair)
  if (isJson) await printJson(context.stdout, diffJson(answer, { ...pair, comparison }))
  else
    await printLines(
      context.stdout,
      differLines(answer, { first: pair.first.node, second: pair.second.node }, comparison),
    )
  return EXIT.notReproducible
}

/** By whatever names a job; of a job that its owner has forgotten by its id alone. */
async function fetchDiff(client: Client, text: string): Promise<JobDiff> {
  const id = text.startsWith('j-') ? text : (await resolveJob(client, text)).id
  return await client.json(JobDiff, `/api/jobs/${encodeURIComponent(id)}/diff`)
}

type Vote = JobDiff['votes'][number] & { readonly outputs: Outputs }
export interface VotePair {
  readonly first: Vote
  readonly second: Vote
}

/** The first build, and the first that is not like it; undefined when one of the two failed. */
export function differingPair({ votes }: JobDiff): VotePair | undefined {
  const [first, ...others] = votes
  if (first === undefined || !isBuilt(first)) return undefined
  if (others.some((vote) => !isBuilt(vote))) return undefined
  const second = others
    .filter(isBuilt)
    .find((vote) => JSON.stringify(sorted(vote.outputs)) !== JSON.stringify(sorted(first.outputs)))
  return second === undefined ? undefined : { first, second }
}

const isBuilt = (vote: JobDiff['votes'][number]): vote is Vote => vote.outputs !== null
const sorted = (outputs: Outputs): [string, Entry][] =>
  Object.entries(outputs).toSorted(([a], [b]) => (a < b ? -1 : 1))

/** Reads what it takes by way of the daemon. */
export function compareDiff(client: Client, { first, second }: VotePair): Promise<Comparison> {
  const roots = new Set<Entry>([...Object.values(first.outputs), ...Object.values(second.outputs)])
  const reader: Reader = {
    // Who has a tree is known, and not who has what is in it: that comes along with it.
    tree: (entry) => readTree(client, { ...entry, isTree: roots.has(entry) }),
    async bytes(entry) {
      const pieces: Uint8Array[] = []
      const hasher = new Hasher()
      for await (const piece of client.blob(entry)) {
        hasher.update(piece)
        pieces.push(piece)
      }
      if (hasher.digest() !== entry.digest)
        throw new MeshError('MESH0502', `the daemon sent other bytes than ${entryCid(entry)} names`)
      return Buffer.concat(pieces)
    },
  }
  return compareOutputs(reader, first.outputs, second.outputs)
}

/** The object of `mesh diff --json`. Part of the public interface. */
function diffJson(
  { job, name, request, found, agree, votes }: JobDiff,
  compared: (VotePair & { readonly comparison: Comparison }) | undefined,
): Record<string, unknown> {
  return {
    v: 1,
    job,
    name,
    request,
    found,
    agree,
    votes: votes.map(({ node, attempt, n, error }) => ({ node, attempt, n, error })),
    compared: compared === undefined ? null : [compared.first.node, compared.second.node],
    count: compared?.comparison.count ?? 0,
    differences: (compared?.comparison.differences ?? []).map(differenceJson),
  }
}

function differenceJson({ output, path, what, first, second, bytes }: Difference): object {
  const described = (entry: Entry | undefined): object | null =>
    entry === undefined
      ? null
      : entry.kind === 'symlink'
        ? entry
        : { cid: entryCid(entry), ...entry }
  return {
    output,
    path,
    what,
    first: described(first),
    second: described(second),
    ...(bytes === undefined ? {} : { bytes }),
  }
}
