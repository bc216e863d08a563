/**
 * Actions: a resolved derivation in one chosen environment. Exactly what a worker runs; its digest keys
 * the stored result.
 *
 * All paths are those that a sealed build sees; a worker without a sandbox maps `/build` to a directory
 * of its own (and its results are keyed as unsealed).
 */
import { z } from 'zod'
import { decodeCanonical, encodeCbor, encodeObject } from './cbor.ts'
import { DigestBytes, digestBytes, sha256, type Digest } from './digest.ts'
import {
  ARGS_MAX,
  ARG_BYTES_MAX,
  INPUTS_MAX,
  OUTPUTS_MAX,
  imageFor,
  LAYERS_MAX,
  variantFor,
  type Place,
  type ResolvedDerivation,
} from './derivation.ts'
import { OutputName, System, text, VariableName } from './names.ts'
import { blobOf, compareNames, EntryWire, type Entry } from './tree.ts'

export const BUILD_ROOT = '/build'
const WORK_DIRECTORY = '/build/work'

/** Canonical absolute path: no empty, `.` or `..` segment. */
const AbsolutePath = text(4096).refine(
  (path) => /^(?:\/[^/]+)+$/.test(path) && !/\/\.{1,2}(?:\/|$)/.test(path),
  'not a canonical absolute path',
)

const Action = z
  .object({
    v: z.literal(1),
    argv: z
      .array(text(ARG_BYTES_MAX))
      .min(1)
      .max(ARGS_MAX + 1),
    /** Without MESH_*: those may differ between nodes. */
    env: z.record(VariableName, text(ARG_BYTES_MAX)),
    cwd: AbsolutePath,
    /** Sorted by path bytes; no path lies in another. */
    inputs: z.array(z.tuple([AbsolutePath, EntryWire])).max(INPUTS_MAX),
    /** Sorted by name. */
    outputs: z
      .array(z.tuple([OutputName, AbsolutePath]))
      .min(1)
      .max(OUTPUTS_MAX),
    system: System,
    /** Digest of the host's userland, or of what names the image. */
    fingerprint: DigestBytes,
    /** Trees of file systems on top of each other, the uppermost first. */
    image: z.array(EntryWire).min(1).max(LAYERS_MAX).optional(),
    sealed: z.boolean(),
    network: z.boolean(),
    /** Only for `builtin:fetch`: the digest that the output must have. */
    fetch: DigestBytes.optional(),
  })
  .refine(
    ({ inputs }) => !overlaps(inputs.map(([path]) => path)),
    'input paths are unsorted or overlap',
  )
export type Action = z.infer<typeof Action>

/** True when the list is not strictly sorted, or when one path lies in another. */
function overlaps(paths: readonly string[]): boolean {
  const seen = new Set<string>()
  for (const [at, path] of paths.entries()) {
    if (at > 0 && compareNames(paths[at - 1] ?? '', path) >= 0) return true
    for (let end = path.indexOf('/', 1); end !== -1; end = path.indexOf('/', end + 1))
      if (seen.has(path.slice(0, end))) return true
    seen.add(path)
  }
  return false
}

export function encodeAction(action: Action): Uint8Array<ArrayBuffer> {
  return encodeObject(Action, action)
}
/** Throws MESH0210. */
export function decodeAction(bytes: Uint8Array): Action {
  return decodeCanonical(Action, bytes, 'action')
}
export function actionDigest(action: Action): Digest {
  return sha256(encodeAction(action))
}

/** What every sealed build finds in its environment, before its own `env`. */
const FIXED_ENV = {
  PATH: '/usr/bin:/bin',
  HOME: '/build/home',
  TMPDIR: '/build/tmp',
  LC_ALL: 'C',
  TZ: 'UTC',
} as const

/** The action of a resolved derivation in an environment with `fingerprint`, which an image makes up for. Pure. */
export function makeAction(
  resolved: ResolvedDerivation,
  place: Place,
  fingerprint: Digest,
): Action {
  const variant = variantFor(resolved.variants, place)
  const image = [...imageFor(resolved, place)]
  const inputs: Record<string, Entry> = { ...resolved.inputs, ...variant?.inputs }
  const env: Record<string, string> = { ...FIXED_ENV }
  const placed: [string, Entry][] = []
  for (const [name, entry] of Object.entries(inputs)) {
    const path = name.includes('.') ? `${WORK_DIRECTORY}/${name}` : `${BUILD_ROOT}/in/${name}`
    placed.push([path, entry])
    if (!name.includes('.')) env[name] = path
  }
  const outputs = resolved.outputs.map((name): [string, string] => [
    name,
    `${BUILD_ROOT}/out/${name}`,
  ])
  for (const [name, path] of outputs) env[name] = path
  return {
    v: 1,
    argv: [resolved.builder, ...resolved.args, ...(variant?.args ?? [])],
    env: { ...env, ...resolved.env, ...variant?.env },
    cwd: WORK_DIRECTORY,
    inputs: placed.toSorted(([a], [b]) => compareNames(a, b)),
    outputs,
    system: resolved.system,
    ...(image.length === 0
      ? { fingerprint }
      : { fingerprint: imageFingerprint(place.system, image), image }),
    sealed: resolved.sealed,
    network: resolved.network,
    ...(resolved.fetch === undefined ? {} : { fetch: resolved.fetch }),
  }
}

/** What stands for the userland of a build in an image: nothing of the machine takes part. */
function imageFingerprint(system: string, image: readonly Entry[]): Digest {
  const layers = image.map((layer) =>
    digestBytes(blobOf(layer)?.digest ?? sha256(new Uint8Array())),
  )
  return sha256(encodeCbor({ v: 1, system, image: layers }))
}
