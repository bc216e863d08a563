/**
 * Images as root file systems of builds: for which systems a machine can enter them, and how.
 *
 * An image has nothing of its machine, so whoever can run programs of its system can run any image of it.
 */
import { EMPTY_DIGEST } from '../wire/digest.ts'
import type { Environment } from '../wire/environment.ts'
import type { Emulator, ImageRoot } from './executor-protocol.ts'
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

/** `layers`: directories of this host, the uppermost first. */
export function imageRoot(layers: readonly string[], runnable: Runnable): ImageRoot {
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
