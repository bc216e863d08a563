/** Whether the machine lives on its battery. */
import type { MachineFiles } from './machine-files.ts'

const SUPPLIES = 'sys/class/power_supply'

/** False for a machine without a battery; undefined where the kernel tells nothing of supplies. */
export function isOnBattery(files: MachineFiles): boolean | undefined {
  const names = files.list(SUPPLIES)
  if (names === undefined) return undefined
  let isDischarging = false
  for (const name of names) {
    const value = (of: string): string => (files.read(`${SUPPLIES}/${name}/${of}`) ?? '').trim()
    // A mouse has a battery, too.
    if (value('scope') === 'Device') continue
    if (value('type') === 'Battery') isDischarging ||= value('status') === 'Discharging'
    else if (value('online') === '1') return false
  }
  return isDischarging
}
