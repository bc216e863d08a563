/**
 * What the daemon and its executor process say to each other: one JSON object a line, checked on arrival.
 *
 * The daemon states builds to start, cancel and limit; the executor process tells how logs grow and how
 * builds ended. When the daemon's end of the pipe closes, the executor process kills all builds.
 */
import { z } from 'zod'
import { parseWith } from '../wire/cbor.ts'
import { LAYERS_MAX } from '../wire/derivation.ts'
import { Isolation } from '../wire/environment.ts'
import { Usage } from '../wire/result.ts'
import { CONTROLS, type Control } from './groups/group-places.ts'
import type { MemoryUse } from './groups/memory-meter.ts'

/** Builds that one executor process runs at once; more are refused as a failure of the infrastructure. */
export const BUILDS_MAX = 1024
/** The longest line: a specification with the largest action and the paths of its inputs. */
const LINE_CHARS_MAX = 64 * 1024 * 1024

/** How sealed builds are walled in, strongest first; `none` runs plain processes only. */
const SANDBOX_METHODS = ['helper', 'bwrap', 'unshare', 'none'] as const
type SandboxMethod = (typeof SANDBOX_METHODS)[number]
export type SandboxForbid = readonly Exclude<SandboxMethod, 'none'>[]

export interface SandboxChoice {
  readonly method: SandboxMethod
  /** Its builds cannot make the system calls that the filter refuses (sandbox/mesh-filter.c). */
  readonly isFiltered?: boolean | undefined
  /** Why each stronger method was not taken, one line each with its exact error. */
  readonly reasons: readonly string[]
  /** The program that makes the walls; empty for `none`. */
  readonly program: string
  /** Why no build can have an image as its root; undefined where they can. */
  readonly imageProblem?: string | undefined
}

export interface BuildInput {
  /** Canonical, below `/build`. */
  readonly path: string
  readonly source:
    | { readonly kind: 'file' | 'dir'; readonly hostPath: string }
    | { readonly kind: 'symlink'; readonly target: string }
}

export interface BuildLimits {
  readonly timeoutMs: number
  /** Longest time without output. */
  readonly maxSilentMs: number
  /** Of the spool file, record heads included. */
  readonly maxLogBytes: number
  /** Of all that lies where outputs go, together. Absent: no limit. */
  readonly maxOutputBytes?: number | undefined
}

/** What is done to all processes of a build together, and by which version of control groups. */
export interface Controls {
  readonly of: Readonly<Partial<Record<Control, 1 | 2>>>
  /** Why each of the others cannot be done, one line each. */
  readonly reasons: readonly string[]
  /** Sealed builds have a filter of system calls, an identity of their own, and limits of memory and processes. */
  readonly isSecure: boolean
}

export interface Emulator {
  readonly program: string
  readonly binary: string
  readonly flags: string
}

/** A root file system for a build: copy-on-write, so that the build owns all of it and changes nothing. */
export interface ImageRoot {
  /** Directories of this host, the uppermost first. */
  readonly layers: readonly string[]
  /** The build is told of a kernel with 32 bits. */
  readonly is32Bit?: boolean | undefined
  /** Programs of `binary` (`offset:magic:mask`) are run by this static program, called as `flags` say; both as binfmt_misc takes them. */
  readonly emulator?: Emulator | undefined
}

export interface BuildSpec {
  readonly attempt: string
  readonly isolation: Isolation
  /** Exists, empty, owned by the caller, on the store's file system; the executor makes work, out, home, tmp and log in it. */
  readonly directory: string
  /** `argv[0]` is absolute, relative to `cwd` with a slash, or a bare name looked up in the PATH of `env` inside the sandbox. */
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** `/build/work`, or a directory in it. */
  readonly cwd: string
  readonly inputs: readonly BuildInput[]
  /** With isolation `image`, and only then. */
  readonly image?: ImageRoot | undefined
  /** Devices of this host that it may use, as absolute paths. */
  readonly devices?: readonly string[] | undefined
  readonly network: boolean
  readonly limits: BuildLimits
  /**
   * Processors that it should use, kept in `control/jobs` of its directory, which it sees as JOBS_FILE.
   * Absent for a build that is told of none.
   */
  readonly jobs?: number | undefined
  /** The most that it can use: others' idle ones are lent to it up to this. Absent: none are. */
  readonly jobsMost?: number | undefined
  /** The most memory that all of its processes may have, where control groups can be made. Absent: no limit. */
  readonly memoryLimitBytes?: number | undefined
  /** The most that its directories may take on the disk. Absent: no limit. */
  readonly diskLimitBytes?: number | undefined
  /** The most processes and threads at once, where control groups can be made. Absent: what the machine allows one build. */
  readonly processesMax?: number | undefined
  /** It may use no more processors than `jobs`, though others are idle. Absent: it has a share for so many. */
  readonly isHard?: boolean | undefined
}

/** Where a build reads how many processors it should use: a decimal number and a line feed, replaced as a whole. */
export const JOBS_FILE = '/build/control/jobs'

/** What a build can have too much of; `processes` is of the machine, `disk` of the machine or its needs, the others of its run. */
const LIMIT_NAMES = ['timeout', 'silent', 'log', 'output', 'disk', 'processes'] as const
type LimitName = (typeof LIMIT_NAMES)[number]

export type BuildEnd =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: string }
  /** `value`: of those limits that the daemon did not set itself. */
  | { readonly kind: 'limit'; readonly limit: LimitName; readonly value?: number | undefined }
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'builder-not-found'; readonly message: string }
  /** The set-up failed, the executor process died, the disk is full: nothing is said about the build. */
  | { readonly kind: 'infrastructure'; readonly message: string }

export interface BuildOutcome {
  readonly end: BuildEnd
  readonly usage: Usage
  /** Size of the spool file. */
  readonly logBytes: number
  /** Of all of its processes together; absent where it did not begin. */
  readonly memory?: MemoryUse | undefined
  /** What its directories held at its end. */
  readonly diskBytes?: number | undefined
}

const text = z.string().refine((value) => !value.includes('\0'), 'NUL is not allowed')
const HostPath = text.regex(/^\//)
const BuildPath = text.refine(
  (path) => /^\/build(?:\/[^/]+)+$/.test(path) && !/\/\.{1,2}(?:\/|$)/.test(path),
  'not a canonical path below /build',
)
const Limits = z.object({
  timeoutMs: z.int().min(1),
  maxSilentMs: z.int().min(1),
  maxLogBytes: z.int().min(0),
  maxOutputBytes: z.int().min(0).optional(),
})
const Spec: z.ZodType<BuildSpec> = z
  .object({
    attempt: text.min(1).max(64),
    isolation: Isolation,
    directory: HostPath,
    argv: z.array(text).min(1),
    env: z.record(text.regex(/^[^=]+$/), text),
    cwd: BuildPath.refine((path) => `${path}/`.startsWith('/build/work/'), 'not in /build/work'),
    inputs: z.array(
      z.object({
        path: BuildPath,
        source: z.discriminatedUnion('kind', [
          z.object({ kind: z.enum(['file', 'dir']), hostPath: HostPath }),
          z.object({ kind: z.literal('symlink'), target: text.min(1) }),
        ]),
      }),
    ),
    image: z
      .object({
        layers: z.array(HostPath).min(1).max(LAYERS_MAX),
        is32Bit: z.boolean().optional(),
        emulator: z
          .object({ program: HostPath, binary: text.min(1).max(512), flags: text.max(16) })
          .optional(),
      })
      .optional(),
    devices: z.array(HostPath).max(16).optional(),
    network: z.boolean(),
    limits: Limits,
    jobs: z.int().min(1).optional(),
    jobsMost: z.int().min(1).optional(),
    memoryLimitBytes: z.int().min(1).optional(),
    diskLimitBytes: z.int().min(0).optional(),
    processesMax: z.int().min(1).optional(),
    isHard: z.boolean().optional(),
  })
  .refine(({ inputs }) => !overlap(inputs), 'an input lies in another one')
  .refine(
    ({ isolation, image }) => (isolation === 'image') === (image !== undefined),
    'an image and the isolation "image" belong together',
  )

/** What is wrong with a specification; checked before it is sent, so that a bad one costs nobody else's builds. */
export function findProblem(spec: BuildSpec): string | undefined {
  const issue = Spec.safeParse(spec).error?.issues[0]
  return issue === undefined ? undefined : `${issue.path.map(String).join('.')}: ${issue.message}`
}

/** A mount inside of another could lead through a link in it. */
function overlap(inputs: readonly BuildInput[]): boolean {
  const paths = new Set(inputs.map((input) => input.path))
  if (paths.size < inputs.length) return true
  for (const path of paths)
    for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1))
      if (paths.has(path.slice(0, end))) return true
  return false
}

const End: z.ZodType<BuildEnd> = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('exited'), code: z.int() }),
  z.object({ kind: z.literal('signalled'), signal: z.string() }),
  z.object({ kind: z.literal('limit'), limit: z.enum(LIMIT_NAMES), value: z.int().optional() }),
  z.object({ kind: z.literal('cancelled') }),
  z.object({ kind: z.literal('builder-not-found'), message: z.string() }),
  z.object({ kind: z.literal('infrastructure'), message: z.string() }),
])

/** From the daemon. */
const Order = z.discriminatedUnion('type', [
  z.object({ type: z.literal('start'), spec: Spec }),
  z.object({ type: z.literal('cancel'), attempt: z.string() }),
  z.object({ type: z.literal('limits'), attempt: z.string(), limits: Limits }),
  z.object({
    type: z.literal('jobs'),
    attempt: z.string(),
    jobs: z.int().min(1),
    isHard: z.boolean().optional(),
  }),
  z.object({ type: z.literal('freeze'), attempt: z.string(), isFrozen: z.boolean() }),
])
export type Order = z.infer<typeof Order>

const Choice: z.ZodType<SandboxChoice> = z.object({
  method: z.enum(SANDBOX_METHODS),
  isFiltered: z.boolean().optional(),
  reasons: z.array(z.string()),
  program: z.string(),
  imageProblem: z.string().optional(),
})
/** From the executor process. `ready` comes first and once. */
const Report = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('ready'),
    sandbox: Choice,
    controls: z.object({
      of: z.partialRecord(z.enum(CONTROLS), z.union([z.literal(1), z.literal(2)])),
      reasons: z.array(z.string()).readonly(),
      isSecure: z.boolean(),
    }),
  }),
  z.object({ type: z.literal('log'), attempt: z.string(), sizeBytes: z.int() }),
  z.object({
    type: z.literal('end'),
    attempt: z.string(),
    outcome: z.object({
      end: End,
      usage: Usage,
      logBytes: z.int(),
      memory: z
        .object({ peakBytes: z.int(), from: z.enum(['cgroup', 'sampled']), isOut: z.boolean() })
        .optional(),
      diskBytes: z.int().optional(),
    }),
  }),
])
export type Report = z.infer<typeof Report>

/** How the executor process is told, as its one argument, where it works. */
export const ExecutorOptions = z.object({
  directory: HostPath,
  forbid: z.array(z.enum(['helper', 'bwrap', 'unshare'])),
})
export type ExecutorOptions = z.infer<typeof ExecutorOptions>

export const encodeLine = (message: Order | Report): string => `${JSON.stringify(message)}\n`
/** Throws MESH0210 or a SyntaxError. */
export const decodeOrder = (line: string): Order => parseWith(Order, JSON.parse(line), 'order')
/** Throws MESH0210 or a SyntaxError. */
export const decodeReport = (line: string): Report => parseWith(Report, JSON.parse(line), 'report')

/** Cuts text that arrives in pieces into lines. Throws RangeError when one is over LINE_CHARS_MAX. */
export class LineDecoder {
  #pieces: string[] = []
  #length = 0

  push(piece: string): string[] {
    const lines: string[] = []
    let from = 0
    for (let at = piece.indexOf('\n'); at !== -1; at = piece.indexOf('\n', from)) {
      this.#pieces.push(piece.slice(from, at))
      lines.push(this.#pieces.join(''))
      this.#pieces = []
      this.#length = 0
      from = at + 1
    }
    if (from < piece.length) {
      this.#pieces.push(piece.slice(from))
      this.#length += piece.length - from
      if (this.#length > LINE_CHARS_MAX)
        throw new RangeError(`a line has more than ${LINE_CHARS_MAX} characters`)
    }
    return lines
  }
}
