/**
 * The derivation file as people write it: the strict schema of `*.mesh.toml`, of its JSON twin, and of
 * what `defineGraph` makes. docs/derivations.md describes it.
 */
import { z } from 'zod'
import {
  ARGS_MAX,
  ARG_BYTES_MAX,
  OUTPUTS_MAX,
  VARIANTS_MAX,
  VERIFY_MAX,
} from '../../wire/derivation.ts'
import { isDigest, parseCid } from '../../wire/digest.ts'
import {
  DerivationName,
  Feature,
  InputName,
  OutputName,
  System,
  text,
  ToolName,
  VariableName,
} from '../../wire/names.ts'
import { ImageNeed, IsolationNeed } from './image-description.ts'
import { nearest } from '../../base/nearest.ts'
import { parseDuration, parseSize } from '../../base/units.ts'

/** What people write for a key of ours. */
const SYNONYMS: Readonly<Record<string, string>> = {
  requirements: 'needs',
  requires: 'needs',
  resources: 'needs',
  dependencies: 'inputs',
  deps: 'inputs',
  srcs: 'inputs',
  environment: 'env',
  command: 'builder',
  cmd: 'builder',
  arguments: 'args',
  outs: 'outputs',
  derivations: 'derivation',
  source: 'sources',
  url: 'urls',
  hosts: 'host',
  ram: 'memory',
  cores: 'cpus',
}

/** A strict object whose complaint about an unknown key names the nearest known one. */
function strict<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  const known = Object.keys(shape)
  return z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys') return undefined
      const key = String(issue.keys[0])
      const synonyms = Object.keys(SYNONYMS).filter((word) => known.includes(SYNONYMS[word] ?? ''))
      const [close] = nearest(key, [...known, ...synonyms])
      return close === undefined
        ? `known are ${known.join(', ')}`
        : `did you mean "${SYNONYMS[close] !== undefined && !known.includes(close) ? SYNONYMS[close] : close}"?`
    },
  })
}

const converted = (convert: (text: string) => number | undefined, expected: string) =>
  z.string().transform((value, context) => {
    const result = convert(value)
    if (result !== undefined) return result
    context.addIssue({ code: 'custom', message: `expected ${expected}`, input: value })
    return z.NEVER
  })
const size = converted(parseSize, 'a size such as "8 GiB"')
const duration = converted(parseDuration, 'a duration such as "30m" or "1h30m"').refine(
  (ms) => ms >= 1 && ms <= 30 * 24 * 3600_000,
  'expected a duration from 1ms to 30d',
)

/** A key that a later version will know: an error, for ignoring it would change what the file means. */
const later = z
  .unknown()
  .refine((value) => value === undefined, 'this key is not supported yet')
  .optional()

const path = text(4096).min(1)
const globs = z.array(text(1024).min(1)).max(256).optional()

const LocalFile = { path: path.optional(), include: globs, exclude: globs }
const StoredObject = {
  cid: z
    .string()
    .refine((value) => parseCid(value) !== undefined, 'expected a CID (bafkrei…, bafyrei…)')
    .optional(),
  /** A CID names bytes; whether they may be executed is said here. */
  executable: z.boolean().optional(),
}
const Source = strict({
  urls: z
    .array(
      text(4096).regex(/^(?:https?|mirror):\/\/\S+$/, 'expected a URL with http, https or mirror'),
    )
    .min(1)
    .max(16),
  sha256: z.string().refine(isDigest, 'expected 64 lower-case hex digits'),
})

type InputShape = {
  readonly path?: unknown
  readonly include?: unknown
  readonly exclude?: unknown
  readonly cid?: unknown
  readonly executable?: unknown
  readonly output?: unknown
  readonly source?: unknown
  readonly files?: unknown
}
function checkInput(input: InputShape, context: z.core.$RefinementCtx): void {
  const kinds = (['path', 'cid', 'output', 'source', 'files'] as const).filter(
    (kind) => input[kind] !== undefined,
  )
  const fail = (message: string): void => context.addIssue({ code: 'custom', message })
  if (kinds.length !== 1)
    fail(
      kinds.length === 0
        ? 'an input has one of path, cid, output, source, files'
        : `an input has only one of ${kinds.join(', ')}`,
    )
  else if (kinds[0] !== 'path' && (input.include !== undefined || input.exclude !== undefined))
    fail('include and exclude belong to path')
  else if (kinds[0] !== 'cid' && input.executable !== undefined) fail('executable belongs to cid')
}

const Part = strict({ ...LocalFile, ...StoredObject }).superRefine(checkInput)
const Input = strict({
  ...LocalFile,
  ...StoredObject,
  /** `DERIVATION.OUTPUT`, or DERIVATION for its output `out`. */
  output: text(256).min(1).optional(),
  source: text(128).min(1).optional(),
  /** A directory put together from several places. */
  files: z.record(path, Part).optional(),
}).superRefine(checkInput)
export type Input = z.infer<typeof Input>

const args = z.array(text(ARG_BYTES_MAX)).max(ARGS_MAX)
const env = z.record(VariableName, text(ARG_BYTES_MAX))
const inputs = z.record(InputName, Input)

const cpus = z.int().min(1).max(4096)
const Needs = strict({
  cpus: z
    .union([cpus, strict({ min: cpus.optional(), max: cpus })], {
      error: 'expected a whole number from 1 on, or {min, max}',
    })
    .refine(
      (value) => typeof value === 'number' || (value.min ?? 1) <= value.max,
      'min is greater than max',
    )
    .optional(),
  memory: size.optional(),
  disk: size.optional(),
  features: z.array(Feature).max(64).optional(),
  tools: z.array(ToolName).max(256).optional(),
  /** Systems of the machines that may run it. */
  host: z.array(System).max(16).optional(),
  image: ImageNeed.optional(),
  isolation: IsolationNeed.optional(),
})

const Run = strict({
  timeout: duration.optional(),
  'max-silent': duration.optional(),
  'max-log': size
    .refine((bytes) => bytes >= 1024 && bytes <= 2 ** 34, 'expected 1 KiB to 16 GiB')
    .optional(),
  'max-output': size
    .refine((bytes) => bytes >= 1 && bytes <= 2 ** 50, 'expected 1 byte to 1 PiB')
    .optional(),
  retries: z.int().min(0).max(20).optional(),
  network: z.boolean().optional(),
  verify: z.int().min(1).max(VERIFY_MAX).optional(),
  nice: later,
  credentials: later,
})

const common = {
  system: System.optional(),
  env: env.optional(),
  sealed: z.boolean().optional(),
  network: z.boolean().optional(),
  needs: Needs.optional(),
  run: Run.optional(),
}

const DerivationDescription = strict({
  builder: text(4096)
    .min(1)
    .refine((value) => !value.startsWith('builtin:'), 'expected a program'),
  args: args.optional(),
  outputs: z
    .array(OutputName)
    .min(1)
    .max(OUTPUTS_MAX)
    .refine((names) => new Set(names).size === names.length, 'an output is named twice')
    .optional(),
  inputs: inputs.optional(),
  when: z
    .array(
      strict({
        host: System,
        /** The machine's own system, where the host is emulated on it. */
        machine: System.optional(),
        system: System.optional(),
        /** In the place of the derivation's; an empty list means the host's own tools. */
        image: ImageNeed.optional(),
        args: args.optional(),
        env: env.optional(),
        inputs: inputs.optional(),
      }),
    )
    .max(VARIANTS_MAX)
    .optional(),
  ...common,
})
export type DerivationDescription = z.infer<typeof DerivationDescription>

const SOURCE_PREFIX = 'sources.'
/** The name of the derivation that fetches a source. */
export const sourceDerivation = (name: string): string => SOURCE_PREFIX + name

export const GraphDescription = strict({
  $schema: z.string().optional(),
  /** Version of the format. */
  mesh: z.literal(1),
  defaults: strict({ ...common, timeout: duration.optional() }).optional(),
  sources: z
    .record(
      z
        .string()
        .refine(
          (name) => DerivationName.safeParse(sourceDerivation(name)).success,
          'a name has 1-120 of A-Z a-z 0-9 _ . + -',
        ),
      Source,
    )
    .optional(),
  derivation: z
    .record(
      DerivationName.refine(
        (name) => !name.startsWith(SOURCE_PREFIX),
        `names that begin with "${SOURCE_PREFIX}" are those of sources`,
      ),
      DerivationDescription,
    )
    .optional(),
})
export type GraphDescription = z.infer<typeof GraphDescription>
/** Before it is parsed: what a file or a generator gives. */
export type GraphDescriptionInput = z.input<typeof GraphDescription>
