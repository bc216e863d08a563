/**
 * The questions of the wizard: five at most, each with a proposal that the return key takes. A question
 * reads an answer into the draft; whether its values are right the schema of the configuration decides.
 */
import { isAbsolute, join, resolve } from 'node:path'
import { parseSize } from '../../../base/units.ts'
import { ROLES } from '../../../wire/api.ts'
import { isWorker, proposalsOf, say, type Draft } from './draft.ts'
import { isJobKind, JOB_KIND_NAMES, JOB_KINDS } from '../job-kinds.ts'
import { POLICIES } from '../../policy/policy.ts'
import type { SettingValue } from '../proposals/proposal.ts'

/** A draft with the answer in it, or what is wrong with the answer. */
type Taken = Draft | { readonly problem: string }

export interface Question {
  readonly title: string
  /** What can be answered, a line each. */
  readonly choices: readonly string[]
  /** What the return key means. */
  readonly proposed: string
  /** Why that is proposed. */
  readonly reason: string
  take(answer: string): Taken
}

/** Of the question `take` below gets the answer as it was typed, without blanks around it; never empty. */
type MakeQuestion = (draft: Draft, places: Places) => Question | undefined

export interface Places {
  readonly cwd: string
  readonly home: string
  /** The data directory as it is now. */
  readonly data: string
}

const YOU = 'you said so'

const askPlace: MakeQuestion = (draft) => {
  if (isSaid(draft, 'node.parents', 'node.listen')) return undefined
  return {
    title: 'Which mesh is it for?',
    choices: [
      'alone    this machine is a mesh by itself, and listens to nobody else',
      'new      the first machine of a mesh that others will join',
      'ADDRESS  join the node there: /ip4/10.0.0.7/tcp/7421/p2p/12D3KooW…',
    ],
    proposed: 'alone',
    reason: 'a mesh of one machine is a good start, and grows later',
    take(answer) {
      if (answer === 'alone' || answer === 'new') return { ...draft, place: { kind: answer } }
      if (!answer.startsWith('/'))
        return {
          problem: `${JSON.stringify(answer)} is none of alone, new, and an address that begins with "/"`,
        }
      return say(draft, YOU, { 'node.parents': words(answer) })
    },
  }
}

const askRoles: MakeQuestion = (draft) => {
  if (isSaid(draft, 'node.roles')) return undefined
  return {
    title: 'What should it do?',
    choices: [
      'root     answer for requests and plan them',
      'worker   build',
      'store    keep blobs, and give them to others',
      `any of ${ROLES.join(', ')}, with blanks or commas between`,
    ],
    ...proposed(draft, 'node.roles'),
    take(answer) {
      const roles = words(answer)
      const stray = roles.find((word) => !ROLES.some((role) => role === word))
      return stray === undefined
        ? say(draft, YOU, { 'node.roles': roles })
        : { problem: `${JSON.stringify(stray)} is none of ${ROLES.join(', ')}` }
    },
  }
}

const askJobs =
  (isSet: boolean): MakeQuestion =>
  (draft) => {
    if (isSet || !isWorker(draft)) return undefined
    return {
      title: 'What will it build mostly?',
      choices: JOB_KIND_NAMES.map((name) => `${name.padEnd(9)}${JOB_KINDS[name].text}`),
      proposed: draft.jobs,
      reason: 'a safe choice; it decides how many processors the memory can feed',
      take(answer) {
        return isJobKind(answer)
          ? { ...draft, jobs: answer }
          : { problem: `${JSON.stringify(answer)} is none of ${JOB_KIND_NAMES.join(', ')}` }
      },
    }
  }

const askBuilds: MakeQuestion = (draft) => {
  if (isSaid(draft, 'worker.policy', 'worker.cpus') || !isWorker(draft)) return undefined
  const policy = proposed(draft, 'worker.policy')
  const cpus = proposed(draft, 'worker.cpus')
  return {
    title: 'When may builds run, and on how many processors?',
    choices: [
      'dedicated     always',
      'proportional  on what others leave',
      'when-idle     on all when nobody is at the machine, else on a few',
      'disabled      not now',
      `a number of processors, up to ${draft.findings.machine.cpus}, or both: when-idle 1`,
    ],
    proposed: `${policy.proposed} ${cpus.proposed}`,
    reason: `${policy.reason}; ${cpus.reason}`,
    take(answer) {
      const more: Record<string, SettingValue> = {}
      for (const word of words(answer))
        if (/^\d+$/.test(word)) more['worker.cpus'] = Number(word)
        else more['worker.policy'] = word
      const policyWord = more['worker.policy']
      const count = more['worker.cpus']
      const has = draft.findings.machine.cpus
      if (typeof policyWord === 'string' && !POLICIES.some((name) => name === policyWord))
        return {
          problem: `${JSON.stringify(policyWord)} is neither a number nor one of ${POLICIES.join(', ')}`,
        }
      if (typeof count === 'number' && (count < 1 || count > has))
        return {
          problem: `${count} is not from 1 to ${has}, which is all of this machine; "disabled" is none`,
        }
      return say(draft, YOU, more)
    },
  }
}

const askStore: MakeQuestion = (draft, places) => {
  if (isSaid(draft, 'node.data', 'store.quota')) return undefined
  const quota = proposed(draft, 'store.quota')
  return {
    title: 'How big may its store become, and where is it?',
    choices: [
      'SIZE     such as "50 GiB", or none for no limit but the free disk',
      'PATH     a directory for all that the node keeps',
      'or both: 50 GiB at /srv/mesh',
    ],
    proposed: `${quota.proposed} at ${places.data}`,
    reason: quota.reason,
    take(answer) {
      const [, size, path] =
        /^(none|[\d.]+ ?[A-Za-z]+)?(?:\s*(?:\bat\s+)?([~/].*))?$/.exec(answer) ?? []
      if (size === undefined && path === undefined)
        return {
          problem: `${JSON.stringify(answer)} is neither a size such as "50 GiB" nor a path`,
        }
      if (size !== undefined && size !== 'none' && parseSize(size) === undefined)
        return { problem: `${JSON.stringify(size)} is no size: write it in MiB, GiB or TiB` }
      return say(draft, YOU, {
        ...(size === undefined ? {} : { 'store.quota': size }),
        ...(path === undefined ? {} : { 'node.data': absolute(path, places) }),
      })
    },
  }
}

/** In their order. `isKindSet`: the kind of jobs was given already. */
export const questions = (options: { readonly isKindSet: boolean }): readonly MakeQuestion[] => [
  askPlace,
  askRoles,
  askJobs(options.isKindSet),
  askBuilds,
  askStore,
]

const isSaid = (draft: Draft, ...settings: readonly string[]): boolean =>
  settings.some((setting) => draft.said.has(setting))

const words = (answer: string): string[] => answer.split(/[\s,]+/).filter((word) => word !== '')

function proposed(
  draft: Draft,
  setting: string,
): { readonly proposed: string; readonly reason: string } {
  const proposal = proposalsOf(draft).find((candidate) => candidate.setting === setting)
  if (proposal === undefined) throw new Error(`nothing is proposed for ${setting}`)
  return { proposed: [proposal.value].flat().join(', '), reason: proposal.reason }
}

/** As a shell would read it. */
function absolute(path: string, { cwd, home }: Places): string {
  if (path === '~' || path.startsWith('~/')) return join(home, path.slice(1))
  return isAbsolute(path) ? resolve(path) : resolve(cwd, path)
}
