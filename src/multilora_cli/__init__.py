"""The console script's package: parsing and printing only. Light, because importing `multilora` imports PEFT."""
