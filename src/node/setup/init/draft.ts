/**
 * The configuration that is being put together: what was said, by flags, environment or answers, and the
 * proposals for the rest. Pure; the schema of the configuration judges it, nothing here does.
 */
import { z } from 'zod'
import { parseSize } from '../../../base/units.ts'
import { Role } from '../../../wire/api.ts'
import type { CommandLine } from '../../config/command-line.ts'
import type { ConfigIo, Env } from '../../config/config-io.ts'
import { resolveConfig, type Resolution } from '../../config/resolve-config.ts'
import { isLoopback, parseListenAddress } from '../../config/config-values.ts'
import type { JobKindName } from '../job-kinds.ts'
import type { Answers, Place } from '../machine.ts'
import { isForJobs, type Proposal, type SettingValue } from '../proposals/proposal.ts'
import { propose } from '../proposals/propose.ts'
import type { Findings } from '../measure/take-measurements.ts'

export interface Draft {
  readonly findings: Findings
  readonly jobs: JobKindName
  /** Undefined while it is not known: then it follows from what was said. */
  readonly place: Place | undefined
  /** By setting: what a person said, and how ("--cpus", "you said so"). */
  readonly said: ReadonlyMap<string, Said>
}

export interface Said {
  readonly value: SettingValue
  readonly how: string
}

/** With `more` said, over what was said before. */
export function say(
  draft: Draft,
  how: string,
  more: Readonly<Record<string, SettingValue>>,
): Draft {
  const said = new Map(draft.said)
  for (const [setting, value] of Object.entries(more)) said.set(setting, { value, how })
  return { ...draft, said }
}

const Value: z.ZodType<SettingValue> = z.union([
  z.string(),
  z.number(),
  z.boolean(),
  z.array(z.string()),
])

/** What flags and environment say. Throws the first problem of one of them. */
export function saidBy(line: CommandLine, env: Env, io: ConfigIo): ReadonlyMap<string, Said> {
  const flags = new Map([...line.flags].filter(([flag]) => flag !== 'config'))
  const resolution = resolveConfig(
    { words: [], flags },
    { ...env, MESH_CONFIG: undefined },
    { ...io, readFile: () => undefined },
  )
  // Whom to admit is proposed later.
  const problem = resolution.problems.find(({ code }) => code !== 'MESH0107')
  if (problem !== undefined) throw problem
  return new Map(
    resolution.settings
      .filter(({ source, toml }) => source !== 'default' && toml !== undefined)
      .map(({ section, key, toml = '', source }) => [
        `${section}.${key}`,
        // Strings, numbers and lists of it are JSON as well.
        { value: Value.parse(JSON.parse(toml)), how: `${source} says so` },
      ]),
  )
}

export function placeOf({ place, said }: Draft): Place {
  const parents = textsOf(said, 'node.parents')
  if (parents.length > 0) return { kind: 'join', parents }
  if (place !== undefined) return place
  const isOpen = textsOf(said, 'node.listen').some((text) => {
    const address = parseListenAddress(text)
    return address !== undefined && !isLoopback(address.host)
  })
  return isOpen ? { kind: 'new' } : { kind: 'alone' }
}

function textsOf(said: Draft['said'], setting: string): string[] {
  return [said.get(setting)?.value ?? []].flat().map(String)
}

/** Of all that is proposed, also where something else was said. */
export function proposalsOf(draft: Draft): Proposal[] {
  return propose(draft.findings.machine, draft.findings.measured, answersOf(draft))
}

function answersOf(draft: Draft): Answers {
  const { said, jobs } = draft
  const roles = z.array(Role).safeParse(said.get('node.roles')?.value)
  const policy = said.get('worker.policy')?.value
  const cpus = said.get('worker.cpus')?.value
  const memoryBytes = parseSize(String(said.get('worker.memory')?.value ?? ''))
  return {
    place: placeOf(draft),
    jobs,
    ...(roles.success ? { roles: roles.data } : {}),
    ...(typeof policy === 'string' ? { policy } : {}),
    ...(typeof cpus === 'number' ? { cpus } : {}),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  }
}

/** What goes into the file: what was said, and what is proposed for the rest. */
export function choicesOf(draft: Draft): Proposal[] {
  const proposals = proposalsOf(draft).filter(
    (proposal) => !isForJobs(proposal) && !draft.said.has(proposal.setting),
  )
  const said = [...draft.said].map(([setting, { value, how }]) => ({ setting, value, reason: how }))
  return [...said, ...proposals]
}

/** Whether builds run on the node. */
export function isWorker(draft: Draft): boolean {
  const roles =
    draft.said.get('node.roles')?.value ??
    proposalsOf(draft).find(({ setting }) => setting === 'node.roles')?.value
  return [roles ?? []].flat().includes('worker')
}

/** As a daemon would read the file with this text at this path, and nothing else. */
export function resolveText(toml: string, path: string, io: ConfigIo): Resolution {
  return resolveConfig(
    { words: [], flags: new Map([['config', [path]]]) },
    {},
    { ...io, readFile: (asked) => (asked === path ? toml : undefined) },
  )
}
