/**
 * Images as root file systems of builds: for which systems a machine can enter them, and how.
 *
 * An image has nothing of its machine, so whoever can run programs of its system can run any image of it.
 */
import { MeshError } from '../base/errors.ts'
import type { Action } from '../wire/action.ts'
import { EMPTY_DIGEST } from '../wire/digest.ts'
import type { Environment } from '../wire/environment.ts'
import type { Emulator, ImageRoot } from './executor-protocol.ts'
import type { Materialised, MaterialisedTrees } from './materialised.ts'
import { QEMU_FORMATS } from './probe/emulators.ts'
import type { Runnable } from './probe/systems.ts'

/** One environment for each system whose images can be entered. Nothing of a userland is in them. */
export function imageEnvironments(runnable: readonly Runnable[]): Environment[] {
  const native = runnable.find(({ how }) => how === 'native')?.system
  return runnable.map(({ system, how }) => ({
    system,
    isolation: 'image',
    label: 'image',
    base: EMPTY_DIGEST,
    tools: {},
    features: how === 'emulated' ? [] : ['native'],
    ...(how === 'emulated' && native !== undefined ? { machine: native } : {}),
  }))
}

/**
 * The root that an action's build has; undefined for the host's own tools. What it takes of the trees goes
 * to `held`, whose owner releases it. `host` is the system of its environment. Throws MESH0505 where this machine cannot enter it.
 */
export async function imageRootOf(
  { image }: Pick<Action, 'image'>,
  host: string,
  deps: {
    readonly trees: MaterialisedTrees
    readonly systems: readonly Runnable[]
    readonly held: Materialised[]
  },
): Promise<ImageRoot | undefined> {
  if (image === undefined) return undefined
  const runnable = deps.systems.find(({ system }) => system === host)
  if (runnable === undefined)
    throw new MeshError('MESH0505', `this machine runs no programs of ${host}`)
  const layers: string[] = []
  for (const layer of image) {
    if (layer.kind !== 'dir') throw new MeshError('MESH0505', `a layer is a ${layer.kind}`)
    const materialised = await deps.trees.acquire(layer)
    deps.held.push(materialised)
    layers.push(materialised.path)
  }
  return imageRoot(layers, runnable)
}

/** `layers`: directories of this host, the uppermost first. */
function imageRoot(layers: readonly string[], runnable: Runnable): ImageRoot {
  const emulator = emulatorOf(runnable)
  return {
    layers,
    ...(runnable.how === 'compat' ? { is32Bit: true } : {}),
    ...(emulator === undefined ? {} : { emulator }),
  }
}

/** What the sandbox has to make known itself; undefined where nothing, or where the kernel knows it for all. */
function emulatorOf({ system, registration, interpreter }: Runnable): Emulator | undefined {
  const format = QEMU_FORMATS.get(system)
  if (registration === undefined || interpreter === undefined || format === undefined)
    return undefined
  return {
    program: interpreter,
    binary: `:${format.magic}:${format.mask}`,
    flags: registration.slice(registration.lastIndexOf(':') + 1),
  }
}
